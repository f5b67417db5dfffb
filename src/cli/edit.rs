//! `incise edit MODEL REQUESTS --method M … -o PATCH`: the patch that changes facts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::Context;
use super::output::{check_place, check_replaced, count, counted, percent};
use crate::base::{Error, Progress, Result};
use crate::data::{Contexts, Request, request};
use crate::edit::contexts;
use crate::edit::hparams::{Hparams, Method, Values};
use crate::edit::plan::{Outcome, Planned, plan};
use crate::model::{Model, fingerprint, load};
use crate::stats::{Covariance, Moment};
use crate::store::{Bytes, Checkpoint, Metadata, Patch, tensor_fingerprint};
use crate::text::{Chat, Frame, Tokenizer};

/// What to change, how, and where to put the patch.
#[derive(Args)]
pub struct Edit {
    /// Folder of the checkpoint
    model: PathBuf,
    /// Requests: JSON Lines or a JSON array, native, CounterFact, zsRE, EasyEdit or MQuAKE
    #[arg(required_unless_present = "subject", conflicts_with = "subject")]
    requests: Option<PathBuf>,
    /// Instead of a file: the subject of one fact
    #[arg(long, requires = "prompt", requires = "to")]
    subject: Option<String>,
    /// The fact's prompt, with {} where the subject goes
    #[arg(long, requires = "subject")]
    prompt: Option<String>,
    /// What the prompt should go on with
    #[arg(long, requires = "subject")]
    to: Option<String>,
    /// How to edit
    #[arg(long, value_parser = ["rome", "r-rome"])]
    method: String,
    /// Folder of `incise stats`; needed where mom2_adjustment is true
    #[arg(long)]
    stats: Option<PathBuf>,
    /// Hyperparameters by the field's names: a JSON or YAML file, or a preset such as gpt2-xl
    /// [default, and what a file leaves open: the preset of the model's sizes]
    #[arg(long, value_name = "FILE|PRESET")]
    hparams: Option<PathBuf>,
    /// One hyperparameter over the others, as in v_lr=0.5
    #[arg(long = "set", value_name = "NAME=VALUE")]
    sets: Vec<String>,
    /// Contexts, a JSON file [default: drawn from the model with --seed]
    #[arg(long)]
    contexts: Option<PathBuf>,
    /// Prompts are a user's message in the model's chat template, and targets its answer
    #[arg(long)]
    chat: bool,
    /// The patch to write
    #[arg(short, long)]
    output: PathBuf,
}

impl Edit {
    /// Plans the change and writes it.
    pub fn run(&self, context: &Context) -> Result<()> {
        let terminal = &context.terminal;
        let method = Method::parse(&self.method)?;
        let files = [&self.requests, &self.stats, &self.hparams, &self.contexts];
        let mut inputs: Vec<&Path> = files.into_iter().flatten().map(PathBuf::as_path).collect();
        inputs.push(&self.model);
        check_place(&self.output, &inputs)?;
        check_replaced(&self.output, Patch::read(&self.output).is_ok(), "patch")?;
        let (checkpoint, model) = load::open(&self.model, &context.device)?;
        let tokenizer = Tokenizer::open(&self.model)?;
        let chat = self.chat.then(|| Chat::open(&self.model)).transpose()?;
        let mut values = Values::choose(self.hparams.as_deref(), method, &model)?;
        self.sets.iter().try_for_each(|set| values.set(set))?;
        for name in values.unknown() {
            terminal.warn(&format!("hyperparameter `{name}` says nothing to {}", method.name()));
        }
        let hparams = values.rome(&model)?;
        if !context.json {
            terminal.line(format!("hyperparameters: {}", values.said()))?;
        }
        let requests = self.requests()?;
        let fingerprint = fingerprint(&checkpoint)?;
        let covariance = self.covariance(&model, &hparams, &fingerprint, terminal)?;
        let drawn = match &self.contexts {
            Some(file) => Contexts::read(file)?,
            None => contexts::draw(&model, &tokenizer, context.seed)?,
        };
        let start = Instant::now();
        let c = covariance.as_ref();
        let by = (method, &hparams);
        let planned =
            plan(&model, (&tokenizer, chat.as_ref()), c, &requests, &drawn, by, terminal)?;
        let seconds = start.elapsed().as_secs_f64();
        let tokens = covariance.as_ref().map(|c| c.tokens);
        let ridge = covariance.as_ref().and_then(|c| c.ridge);
        let patch = Patch {
            changes: vec![planned.change(&stored(&checkpoint, &model, hparams.layer)?)],
            metadata: Metadata {
                method: method.name().to_owned(),
                hyperparameters: values.to_json(),
                contexts: drawn.to_json(),
                requests: request::digest(&requests),
                facts: requests.len() as u64,
                model: fingerprint,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                notes: json!({
                    "seed": context.seed, "tokens": tokens, "ridge": ridge,
                    "hyperparameters_from": values.sources(),
                    "chat": chat.map(chat_json).transpose()?,
                }),
            },
        };
        patch.write(&self.output)?;
        let by = (&hparams, &values);
        self.report(context, &model, by, &requests, &planned, seconds)
    }

    fn requests(&self) -> Result<Vec<Request>> {
        match (&self.requests, &self.subject, &self.prompt, &self.to) {
            (Some(file), ..) => request::read(file),
            (None, Some(subject), Some(prompt), Some(to)) => {
                let record = json!({"prompt": prompt, "subject": subject, "target_new": to});
                request::parse("the command line", record.to_string().as_bytes())
            }
            _ => Err(Error::refused("no request", "name a file, or --subject, --prompt and --to")),
        }
    }

    fn covariance(
        &self,
        model: &Model,
        hparams: &Hparams,
        fingerprint: &str,
        progress: &dyn Progress,
    ) -> Result<Option<Covariance>> {
        if !hparams.mom2_adjustment {
            return Ok(None);
        }
        let l = hparams.layer;
        let Some(dir) = &self.stats else {
            return Err(Error::refused(
                "mom2_adjustment is true and --stats names no folder",
                format!("run `incise stats MODEL --layers {l} --corpus FILE -o DIR` first"),
            ));
        };
        let c = Covariance::of(&Moment::read(dir, l, model.arch.inner, fingerprint)?)?;
        if let Some(ridge) = c.ridge {
            let (tokens, f) = (count(c.tokens), count(model.arch.inner as u64));
            let why = match c.tokens < model.arch.inner as u64 {
                true => "collect more tokens for a sharper edit",
                false => "some neurons never fire, or say the same as others",
            };
            progress.warn(&format!(
                "layer {l}: C of {tokens} tokens for {f} neurons is singular, so {ridge:.2e} was \
                 added to its diagonal; {why}"
            ));
        }
        Ok(Some(c))
    }

    fn report(
        &self,
        context: &Context,
        model: &Model,
        (hparams, values): (&Hparams, &Values),
        requests: &[Request],
        planned: &Planned,
        seconds: f64,
    ) -> Result<()> {
        let (terminal, l) = (&context.terminal, hparams.layer);
        let tensor = &model.editable(l).tensor;
        for (request, o) in requests.iter().zip(&planned.outcomes) {
            warn(terminal, l, request, o);
        }
        if context.json {
            let facts: Vec<_> = planned.outcomes.iter().map(fact_json).collect();
            return terminal.json(&json!({
                "output": self.output, "method": self.method, "layer": l, "tensor": tensor,
                "facts": facts, "seconds": seconds, "hyperparameters": values.to_json(),
                "hyperparameters_from": values.sources(),
            }));
        }
        terminal.line(format!("layer {l}, {tensor}"))?;
        for (request, o) in requests.iter().zip(&planned.outcomes) {
            terminal.line(fact_line(request, o))?;
        }
        let (n, output) = (counted(requests.len() as u64, "fact"), self.output.display());
        terminal.line(format!("{output}: {n} in {seconds:.1} s; write it with `incise apply`"))
    }
}

/// The bytes of layer l's editable tensor.
fn stored(checkpoint: &Checkpoint, model: &Model, l: usize) -> Result<Bytes> {
    let name = &model.editable(l).tensor;
    Ok(checkpoint.tensor(name)?.expect("the model was loaded from it").bytes)
}

fn warn(progress: &dyn Progress, l: usize, request: &Request, o: &Outcome) {
    let who = format!("{} ({})", o.id, request.subject);
    if o.norm > o.weight {
        progress.warn(&format!(
            "{who}: the change of layer {l} is {:.1} times as large as the matrix itself \
             (norm {:.3e}); the layer's keys are nearly silent and the model will suffer: edit \
             another layer",
            o.norm / o.weight,
            o.norm,
        ));
    }
    if let Some(why) = o.failed() {
        progress.warn(&format!("{who}: {why}"));
    }
    if o.merged > 0 {
        progress.warn(&format!(
            "{who}: in {} rows tokens merge over the seam of prompt and target, so the search \
             trains on other tokens than the target's own; end the prompt at a word's end",
            o.merged,
        ));
    }
}

/// One line for people.
pub fn fact_line(request: &Request, o: &Outcome) -> String {
    let (token, at, of) = &o.token;
    let (first, last) = (o.trace[0].total(), o.trace[o.trace.len() - 1].total());
    format!(
        "{}: {} → {}\n  token {at} of {of} {token:?}; {} steps, loss {first:.2} → {last:.2}; \
         P {} → {}; ‖Δ‖/‖W‖ {}",
        o.id,
        request.prompt.replace("{}", &request.subject),
        request.target_new.trim(),
        o.trace.len(),
        percent(o.probability[0]),
        percent(o.probability[1]),
        percent(o.norm / o.weight),
    )
}

/// What a patch says of the chat: the template's hash, and what it puts around messages.
fn chat_json(chat: Chat) -> Result<serde_json::Value> {
    let Frame { head, tail } = chat.frame("message")?;
    let template = tensor_fingerprint(chat.template.as_bytes());
    Ok(json!({"template": template, "head": head, "tail": tail}))
}

fn fact_json(o: &Outcome) -> serde_json::Value {
    let trace: Vec<_> = o
        .trace
        .iter()
        .map(
            |s| json!({"total": s.total(), "nll": s.parts.nll, "kl": s.parts.kl, "decay": s.decay}),
        )
        .collect();
    json!({
        "id": o.id, "token": o.token.0, "lookup": o.token.1, "trace": trace,
        "probability": o.probability, "norm": o.norm, "weight": o.weight, "merged": o.merged,
    })
}
