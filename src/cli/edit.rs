//! `incise edit MODEL REQUESTS --method M … -o PATCH`: the patch that changes facts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use super::mass::{self, Mass};
use super::output::{check_place, check_replaced, count, counted};
use super::report::{self, Report};
use super::stages;
use crate::base::{Error, Progress, Result};
use crate::data::conflicts::{OnConflict, Superseded, resolve};
use crate::data::{Contexts, Request, request};
use crate::edit::contexts;
use crate::edit::facts::{Fact, facts};
use crate::edit::hparams::{Hparams, METHODS, Method, Values};
use crate::edit::plan::{Planned, plan};
use crate::model::{Model, SearchPrecision, fingerprint, load};
use crate::stats::{Covariance, Moment};
use crate::store::{Bytes, Checkpoint, Metadata, Patch, tensor_fingerprint};
use crate::text::{Chat, Frame, Tokenizer};

/// What to change, how, and where to put the patch.
#[derive(Args)]
pub struct Edit {
    /// Folder of the checkpoint
    pub(super) model: PathBuf,
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
    #[arg(long, value_parser = METHODS.map(|(name, _)| name))]
    method: String,
    /// Folder of `incise stats`; needed where C is used
    #[arg(long)]
    pub(super) stats: Option<PathBuf>,
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
    /// Which request counts where several ask one prompt for different targets
    #[arg(long, value_parser = ["error", "last", "first"], default_value = "error")]
    on_conflict: String,
    /// Leave out the facts of these ids; values found by an earlier run serve again
    #[arg(long, value_name = "ID", num_args = 1..)]
    without: Vec<String>,
    /// Of the value search on a GPU: exact, or fast, which rounds activations to bf16
    #[arg(long, value_parser = ["exact", "fast"], default_value = "exact")]
    precision: String,
    /// Say what would be done, and stop before the work
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) mass: Mass,
    /// The patch to write
    #[arg(short, long)]
    pub(super) output: PathBuf,
}

/// Everything an edit needs, read and checked.
pub struct Ready {
    pub(super) checkpoint: Checkpoint,
    pub(super) model: Model,
    pub(super) method: Method,
    pub(super) values: Values,
    pub(super) contexts: Contexts,
    pub(super) requests: Vec<Request>,
    pub(super) facts: Vec<Fact>,
    pub(super) superseded: Vec<Superseded>,
    /// Of the model without its editable matrices.
    pub(super) fingerprint: String,
    notes: Value,
}

impl Edit {
    /// Plans the change and writes it.
    pub fn run(&self, context: &Context) -> Result<()> {
        let method = Method::parse(&self.method)?;
        let inputs = self.inputs();
        check_place(&self.output, &inputs)?;
        check_replaced(&self.output, self.mass.is_older(&self.output), self.mass.what())?;
        let report = report::path(&self.output);
        check_place(&report, &inputs)?;
        check_replaced(&report, report::is_one(&report), "report of an edit")?;
        match method.keys() {
            Some(_) => {
                self.mass.refuse(method)?;
                let ready = self.ready(method, context)?;
                let hparams = ready.values.rome(&ready.model)?;
                if self.dry_run {
                    return self.say(context, &ready, json!({}));
                }
                let c = self.covariance(&ready, &hparams, &context.terminal)?;
                let by = (method, &hparams);
                let (model, facts) = (&ready.model, &ready.facts);
                let planned = plan(model, c.as_ref(), facts, by, &context.terminal)?;
                let tokens = c.as_ref().map(|c| c.tokens);
                self.finish(context, &ready, &planned, json!({"tokens": tokens}), || Ok(()))
            }
            None => mass::run(self, method, context),
        }
    }

    /// Files and folders that are read.
    pub(super) fn inputs(&self) -> Vec<&Path> {
        let files = [&self.requests, &self.stats, &self.hparams, &self.contexts];
        let mut inputs: Vec<&Path> = files.into_iter().flatten().map(PathBuf::as_path).collect();
        inputs.push(&self.model);
        inputs.extend(self.mass.values());
        inputs
    }

    /// Reads and checks everything but statistics.
    pub(super) fn ready(&self, method: Method, context: &Context) -> Result<Ready> {
        let terminal = &context.terminal;
        let (checkpoint, mut model) = load::open(&self.model, &context.device)?;
        if self.precision == "fast" {
            if model.compute.engine().is_none() {
                let what = "--precision fast: the processor has no fast products";
                return Err(Error::refused(what, "leave it out, or say --device cuda:0"));
            }
            model.search_precision = SearchPrecision::Fast;
        }
        let tokenizer = Tokenizer::open(&self.model)?;
        let chat = self.chat.then(|| Chat::open(&self.model)).transpose()?;
        let mut values = Values::choose(self.hparams.as_deref(), method, &model)?;
        self.sets.iter().try_for_each(|set| values.set(set))?;
        for name in values.unknown(method) {
            terminal.warn(&format!("hyperparameter `{name}` says nothing to {}", method.name()));
        }
        if !context.json {
            terminal.remark(format!("hyperparameters: {}", values.said(method)))?;
        }
        let rule = match self.on_conflict.as_str() {
            "last" => OnConflict::Last,
            "first" => OnConflict::First,
            _ => OnConflict::Error,
        };
        let unnamed = PathBuf::from("the command line");
        let file = self.requests.as_ref().unwrap_or(&unnamed);
        let (requests, superseded) = resolve(file, self.left(self.requests()?)?, rule)?;
        if !superseded.is_empty() {
            let repeats = superseded.iter().filter(|s| s.repeats).count();
            terminal.warn(&format!(
                "{} left out: {repeats} ask again for the same, {} give way to others for the \
                 same prompt; the report names them",
                counted(superseded.len() as u64, "request"),
                superseded.len() - repeats,
            ));
        }
        let contexts = match &self.contexts {
            Some(file) => Contexts::read(file)?,
            None => contexts::draw(&model, &tokenizer, method, context.seed)?,
        };
        let text = (&tokenizer, chat.as_ref());
        let facts = facts(&model, text, (file, &requests), &contexts)?;
        let notes = json!({
            "seed": context.seed, "hyperparameters_from": values.sources(),
            "chat": chat.map(chat_json).transpose()?,
        });
        let fingerprint = fingerprint(&checkpoint)?;
        Ok(Ready {
            checkpoint,
            model,
            method,
            values,
            contexts,
            requests,
            facts,
            superseded,
            fingerprint,
            notes,
        })
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

    /// The requests without those that are withdrawn.
    fn left(&self, requests: Vec<Request>) -> Result<Vec<Request>> {
        let ids: HashSet<&str> = requests.iter().map(|r| r.id.as_str()).collect();
        if let Some(id) = self.without.iter().find(|id| !ids.contains(id.as_str())) {
            let what = format!("--without {id}: no request has this id");
            return Err(Error::refused(what, "ids are in the report of the edit"));
        }
        let stays = |r: &Request| !self.without.contains(&r.id);
        let left: Vec<Request> = requests.into_iter().filter(stays).collect();
        match left.is_empty() {
            true => Err(Error::refused("--without leaves no request", "name fewer ids")),
            false => Ok(left),
        }
    }

    fn covariance(
        &self,
        ready: &Ready,
        hparams: &Hparams,
        progress: &dyn Progress,
    ) -> Result<Option<Covariance>> {
        if !hparams.mom2_adjustment {
            return Ok(None);
        }
        let moment = self.moment(ready, hparams.layer)?;
        let c = Covariance::of(&moment)?;
        warn_of_ridge(progress, &moment, c.ridge);
        Ok(Some(c))
    }

    /// The statistics of a layer.
    pub(super) fn moment(&self, ready: &Ready, l: usize) -> Result<Arc<Moment>> {
        let Some(dir) = &self.stats else {
            return Err(Error::refused(
                format!("{} needs C, and --stats names no folder", ready.method.name()),
                format!("run `incise stats MODEL --layers {l} --corpus FILE -o DIR` first"),
            ));
        };
        Moment::read(dir, l, ready.model.arch.inner, &ready.fingerprint).map(Arc::new)
    }

    /// What would be done.
    pub(super) fn say(&self, context: &Context, ready: &Ready, more: Value) -> Result<()> {
        let tokens: usize =
            ready.facts.iter().flat_map(|f| &f.rows.rewriting).map(|r| r.ids.len()).sum();
        if context.json {
            let mut all = json!({
                "dry_run": true, "facts": ready.facts.len(), "tokens": tokens,
                "superseded": ready.superseded.len(), "hyperparameters": ready.values.to_json(),
            });
            if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
                all.extend(more);
            }
            return context.terminal.json(&all);
        }
        let facts = counted(ready.facts.len() as u64, "fact");
        let line = format!("dry run: {facts}, {} tokens in all rows", count(tokens as u64));
        context.terminal.line(line)?;
        let Value::Object(more) = more else { return Ok(()) };
        more.iter().try_for_each(|(name, what)| match what {
            Value::String(what) => context.terminal.line(format!("{name}: {what}")),
            what => context.terminal.line(format!("{name}: {what}")),
        })
    }

    /// Writes patch and report, `also` what goes with them, and tells.
    pub(super) fn finish(
        &self,
        context: &Context,
        ready: &Ready,
        planned: &Planned,
        more: Value,
        also: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut notes = ready.notes.clone();
        let ridges: Vec<_> = planned.layers.iter().map(|l| l.ridge).collect();
        notes["ridge"] = json!(ridges);
        if let (Some(notes), Value::Object(more)) = (notes.as_object_mut(), more) {
            notes.extend(more);
        }
        let patch = Patch {
            changes: planned.changes(|l| stored(&ready.checkpoint, &ready.model, l))?,
            metadata: Metadata {
                method: ready.method.name().to_owned(),
                hyperparameters: ready.values.to_json(),
                contexts: ready.contexts.to_json(),
                requests: request::digest(&ready.requests),
                facts: ready.requests.len() as u64,
                model: ready.fingerprint.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                notes,
            },
        };
        context.terminal.enter("writing");
        patch.write(&self.output)?;
        let (facts, superseded) = (&ready.facts[..], &ready.superseded[..]);
        let model = &ready.model;
        let told = Report { model, planned, facts, superseded, output: &self.output };
        told.write()?;
        also()?;
        let stages = context.terminal.stages();
        let seconds = stages::seconds(&stages);
        told.warn(&context.terminal);
        match context.json {
            true => context.terminal.json(&told.json(json!({
                "method": self.method, "seconds": seconds, "stages": stages::to_json(&stages),
                "hyperparameters": ready.values.to_json(),
                "hyperparameters_from": ready.values.sources(),
                "contexts": ready.contexts.to_json(),
            }))),
            false => {
                told.tell(context, seconds)?;
                context.terminal.line(stages::line(&stages))
            }
        }
    }
}

/// Says that C was singular.
pub fn warn_of_ridge(progress: &dyn Progress, moment: &Moment, ridge: Option<f64>) {
    let Some(ridge) = ridge else { return };
    let (tokens, f, l) = (count(moment.tokens), count(moment.f as u64), moment.layer);
    let why = match moment.tokens < moment.f as u64 {
        true => "collect more tokens for a sharper edit",
        false => "some neurons never fire, or say the same as others",
    };
    progress.warn(&format!(
        "layer {l}: C of {tokens} tokens for {f} neurons is singular, so {ridge:.2e} was added to \
         its diagonal; {why}"
    ));
}

/// The stored bytes of a layer's down projection.
pub fn stored(checkpoint: &Checkpoint, model: &Model, l: usize) -> Result<Bytes> {
    let name = &model.editable(l).tensor;
    Ok(checkpoint.tensor(name)?.expect("the model was loaded from it").bytes)
}

/// What a patch says of the chat: the template's hash, and what it puts around messages.
fn chat_json(chat: Chat) -> Result<Value> {
    let Frame { head, tail } = chat.frame("message")?;
    let template = tensor_fingerprint(chat.template.as_bytes());
    Ok(json!({"template": template, "head": head, "tail": tail}))
}
