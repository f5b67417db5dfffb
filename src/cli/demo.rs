//! `incise demo`: facts change in the model that ships with the program, and change back.

use std::path::Path;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::edit::stored;
use super::output::percent;
use super::report::share;
use super::{Context, embedded};
use crate::base::file::read_file;
use crate::base::{Error, Progress, Quiet, Result, Rng};
use crate::data::{Contexts, Request, request};
use crate::edit::apply;
use crate::edit::facts::facts;
use crate::edit::hparams::{Method, Values};
use crate::edit::outcome::Outcome;
use crate::edit::plan::plan;
use crate::model::generate::Sampling;
use crate::model::{Model, fingerprint, load};
use crate::stats::{Covariance, Moment};
use crate::store::{Metadata, Patch};
use crate::text::Tokenizer;

/// Longest completion shown, in tokens.
const SHOWN: usize = 8;

/// The reader's own fact, instead of those that ship.
#[derive(Args)]
pub struct Demo {
    /// The subject, as in "Eiffel Tower"
    #[arg(long, requires = "prompt", requires = "to")]
    subject: Option<String>,
    /// The prompt, with {} where the subject goes
    #[arg(long, requires = "subject")]
    prompt: Option<String>,
    /// What the prompt should go on with
    #[arg(long, requires = "subject")]
    to: Option<String>,
}

/// A fact, and what to ask before and after its change.
#[derive(Clone, Deserialize)]
struct Show {
    prompt: String,
    subject: String,
    target_new: String,
    #[serde(default)]
    paraphrase: Option<String>,
    #[serde(default)]
    neighbour: Option<String>,
    #[serde(default)]
    one_hop: Option<String>,
}

/// A question and what the model says to it.
#[derive(Clone, Serialize)]
struct Answer {
    kind: &'static str,
    prompt: String,
    before: String,
    after: String,
}

impl Show {
    fn questions(&self) -> Vec<(&'static str, String)> {
        let filled = self.prompt.replace("{}", &self.subject);
        let all = [
            ("prompt", Some(filled)),
            ("paraphrase", self.paraphrase.clone()),
            ("neighbour", self.neighbour.clone()),
            ("one hop", self.one_hop.clone()),
        ];
        all.into_iter().filter_map(|(kind, text)| Some((kind, text?))).collect()
    }
}

impl Demo {
    /// Edits, shows, undoes.
    pub fn run(&self, context: &Context) -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("", "make a folder", e))?;
        let dir = folder.path();
        embedded::lay_out(dir)?;
        let terminal = &context.terminal;
        if !context.json {
            let (checkpoint, model) = load::open(dir, &context.device)?;
            let n: usize =
                checkpoint.entries().map(|(_, _, e)| e.shape.iter().product::<usize>()).sum();
            terminal.line(format!(
                "A {} layout of {} layers and {:.1} M parameters, trained on a few hundred facts.",
                model.arch.family,
                model.arch.layers,
                n as f64 / 1e6,
            ))?;
        }
        let mut told = Vec::new();
        for show in self.facts(dir)? {
            let (outcome, answers) = change(dir, context, &show)?;
            if context.json {
                told.push(json!({
                    "subject": show.subject, "target_new": show.target_new, "answers": answers,
                    "steps": outcome.trace.len(), "probability": outcome.probability,
                }));
            } else {
                tell(context, &show, &outcome, &answers)?;
            }
        }
        let last = self.facts(dir)?.pop().expect("at least one fact");
        let (kind, prompt) = last.questions().swap_remove(0);
        let edited = say(dir, context, &prompt)?;
        apply::undo(dir, None)?;
        let undone = say(dir, context, &prompt)?;
        if context.json {
            let undo = json!({"prompt": prompt, "before": edited, "after": undone});
            return terminal.json(&json!({"facts": told, "undo": undo}));
        }
        terminal.line("\nThe newest change undone, byte for byte:")?;
        let answer = Answer { kind, prompt, before: edited, after: undone };
        terminal.line(answer_line(&answer))
    }

    fn facts(&self, dir: &Path) -> Result<Vec<Show>> {
        if let (Some(subject), Some(prompt), Some(to)) = (&self.subject, &self.prompt, &self.to) {
            let (prompt, subject, target_new) = (prompt.clone(), subject.clone(), to.clone());
            let (paraphrase, neighbour, one_hop) = (None, None, None);
            return Ok(vec![Show { prompt, subject, target_new, paraphrase, neighbour, one_hop }]);
        }
        let path = dir.join("showcase.json");
        let bytes = read_file(&path, 1 << 20)?;
        Ok(serde_json::from_slice(&bytes).expect("the program's own file, held by a test"))
    }
}

/// Plans one fact on the model as it is now, and applies it in place.
fn change(dir: &Path, context: &Context, show: &Show) -> Result<(Outcome, Vec<Answer>)> {
    let (checkpoint, model) = load::open(dir, &context.device)?;
    let tokenizer = Tokenizer::open(dir)?;
    let values = Values::read(&dir.join("hparams.json"))?;
    let hparams = values.rome(&model)?;
    let contexts = Contexts::read(dir.join("contexts.json"))?;
    let name = fingerprint(&checkpoint)?;
    let c = Covariance::of(&Moment::read(dir, hparams.layer, model.arch.inner, &name)?)?;
    let record = json!({
        "prompt": show.prompt, "subject": show.subject, "target_new": show.target_new,
    });
    let requests = request::parse("the command line", record.to_string().as_bytes())?;
    let by = (Method::RRome, &hparams);
    let file = Path::new("the command line");
    let facts = facts(&model, (&tokenizer, None), (file, &requests), &contexts)?;
    let planned = plan(&model, Some(&c), &facts, by, &Quiet)?;
    let patch = Patch {
        changes: planned.changes(|l| stored(&checkpoint, &model, l))?,
        metadata: metadata(&requests, &contexts, &values, name),
    };
    let ask = |model: &Model| -> Result<Vec<String>> {
        let questions = show.questions();
        questions.iter().map(|(_, prompt)| complete(model, &tokenizer, prompt)).collect()
    };
    let before = ask(&model)?;
    apply::in_place(dir, &[patch], &context.device, &Quiet)?;
    let (_, edited) = load::open(dir, &context.device)?;
    let after = ask(&edited)?;
    let answers = show
        .questions()
        .into_iter()
        .zip(before.into_iter().zip(after))
        .map(|((kind, prompt), (before, after))| Answer { kind, prompt, before, after })
        .collect();
    let outcome = planned.outcomes.into_iter().next().expect("one fact");
    Ok((outcome, answers))
}

fn metadata(requests: &[Request], contexts: &Contexts, values: &Values, model: String) -> Metadata {
    Metadata {
        method: Method::RRome.name().to_owned(),
        hyperparameters: values.to_json(),
        contexts: contexts.to_json(),
        requests: request::digest(requests),
        facts: requests.len() as u64,
        model,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        notes: json!({}),
    }
}

/// What the model in `dir` says to a prompt now.
fn say(dir: &Path, context: &Context, prompt: &str) -> Result<String> {
    let (_, model) = load::open(dir, &context.device)?;
    complete(&model, &Tokenizer::open(dir)?, prompt)
}

/// The likeliest completion, up to the end of its sentence.
fn complete(model: &Model, tokenizer: &Tokenizer, prompt: &str) -> Result<String> {
    let ids = tokenizer.encode(prompt)?;
    let mut rng = Rng::new(0, "greedy");
    let tokens = model.generate(&ids, SHOWN, Sampling::GREEDY, &mut rng, &[], &mut |_| true)?;
    let text = tokenizer.decode_after(&tokens)?;
    let end = text.find(['.', ',', '?', '\n', '<']).unwrap_or(text.len());
    Ok(text[..end].trim().to_owned())
}

fn tell(context: &Context, show: &Show, o: &Outcome, answers: &[Answer]) -> Result<()> {
    let filled = show.prompt.replace("{}", &show.subject);
    let [before, after] = o.probability.map(percent);
    context.terminal.line(format!(
        "\n{filled} → {}\n  {} steps; P {before} → {after}; ‖Δ‖/‖W‖ {}",
        show.target_new.trim(),
        o.trace.len(),
        percent(share(o)),
    ))?;
    if let Some(why) = o.failed() {
        context.terminal.warn(&why);
    }
    answers.iter().try_for_each(|answer| context.terminal.line(answer_line(answer)))
}

fn answer_line(a: &Answer) -> String {
    let change = match a.before == a.after {
        true => format!("{} (as before)", a.after),
        false => format!("{} → {}", a.before, a.after),
    };
    format!("  {:<11} {} … {change}", a.kind, a.prompt)
}
