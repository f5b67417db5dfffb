//! `incise eval MODEL --data FILE… [--method M | --patch P… | --with FILE…] -o DIR`: what became of
//! edits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::context::Context;
use super::editing::{Editing, digest};
use super::stages;
use crate::base::{Error, Result, Rng, Share, Stage};
use crate::data::request::MAX_BYTES;
use crate::data::{Case, Corpus, Demonstrations, Snippets, task};
use crate::edit::methods::METHODS;
use crate::editor::Editor;
use crate::editor::evaluation::{Mode, Protocol, WorkDone};
use crate::eval::fluency::References;
use crate::eval::folder::Folder;
use crate::eval::session::Session;
use crate::eval::suite::Suite;
use crate::eval::suites::SUITES;
use crate::eval::words::Compat;

/// What to edit, how, and what to measure.
#[derive(Args)]
pub struct Eval {
    /// Folder of the checkpoint
    model: PathBuf,
    /// Records to edit and measure, in the forms that `incise edit` reads
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "task")]
    data: Vec<PathBuf>,
    /// How to edit [default: not at all; the model is measured as it is]
    #[arg(long, ignore_case = true, requires = "data")]
    #[arg(value_parser = METHODS.map(|method| method.about().name))]
    method: Option<String>,
    /// Measure the model with these patches in it
    #[arg(long, value_name = "PATCH", num_args = 1.., conflicts_with = "method")]
    patch: Vec<PathBuf>,
    /// Measure the model with these edits beside its weights
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["method", "patch"])]
    with: Vec<PathBuf>,
    /// Each record alone, batches of them, or one upon the other
    #[arg(long, value_parser = ["single", "batch", "sequential"], default_value = "single")]
    mode: String,
    /// Records that are edited at once: a number, or all [default: all in batches, 1 upon the
    /// other]
    #[arg(long, value_name = "N|all")]
    batch_size: Option<String>,
    /// Records that are edited when all so far are measured; ascending. All is the last
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',')]
    checkpoints: Vec<usize>,
    /// What to measure, by the first word of metrics' names
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',',
          value_parser = suite_names())]
    metrics: Vec<String>,
    /// Tokenise what CounterFact's metrics compare as this code does
    #[arg(long, value_parser = ["memit", "alphaedit"])]
    compat: Option<String>,
    /// Folder of MQuAKE's published demonstrations, for its questions
    #[arg(long, value_name = "DIR")]
    demonstrations: Option<PathBuf>,
    /// What is written of things, by relation and new target: ROME's attribute_snippets.json;
    /// sampled text is compared with it
    #[arg(long, value_name = "FILE")]
    snippets: Option<PathBuf>,
    /// Text on which perplexity and drift are measured once all records are edited: a document a
    /// line
    #[arg(long, value_name = "FILE", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Tokens of it
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    text_tokens: usize,
    /// Tasks of general ability, which are asked once all records are edited: questions with
    /// choices, or prompts with an answer
    #[arg(long, value_name = "FILE", num_args = 1..)]
    task: Vec<PathBuf>,
    /// Only the first so many records
    #[arg(long)]
    limit: Option<usize>,
    /// Only so many records, drawn with --seed
    #[arg(long)]
    sample: Option<usize>,
    /// Edit records in an order drawn with --seed [default: that of the file]
    #[arg(long)]
    shuffle: bool,
    /// Every n-th record only, from the i-th (from 0)
    #[arg(long, value_name = "I/N", conflicts_with = "checkpoints")]
    shard: Option<Share>,
    #[command(flatten)]
    editing: Editing,
    /// Folder of the results; one with results of the same run goes on
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

fn suite_names() -> Vec<&'static str> {
    SUITES.iter().map(|suite| suite.name).collect()
}

/// Far above the published file of snippets.
const MAX_SNIPPETS: u64 = 1 << 33;

/// The suite of sampled text.
const FLUENCY: &str = "fluency";

/// Tokens that run at a time: enough for products to be efficient, and few for the cache.
const TOKENS: usize = 4096;

impl Eval {
    /// Edits, measures, and prints what came out.
    pub fn run(&self, context: &Context) -> Result<()> {
        let mut editor = self.editing.editor(&self.model, context)?;
        let cases = self.cases(context, &editor)?;
        if let Some(method) = &self.method {
            editor = editor.method(method)?;
        }
        if self.shard.is_some() && self.mode == "sequential" && self.method.is_some() {
            let what = "edits one upon the other cannot be shared out";
            return Err(Error::refused(what, "leave --shard out, or edit with another --mode"));
        }
        let protocol = self.protocol(&editor, cases.len())?;
        self.check_end(&protocol, cases.len())?;
        let run = self.described(context, &editor, cases.len())?;
        let mut folder = Folder::open(&self.output, run)?;
        let evaluation = editor.evaluation(&cases, &protocol)?;
        let ran = evaluation.run(&mut folder);
        folder.ended(session(context, evaluation.work()))?;
        ran?;
        context.terminal.enter(Stage::WriteResults);
        let summary = folder.summarise(context.seed)?;
        Self::print(context, &summary, &self.output)
    }

    fn asks(&self, suite: &str) -> bool {
        self.metrics.is_empty() || self.metrics.iter().any(|name| name == suite)
    }

    /// Refuses text and tasks where there is no model in which all is edited.
    fn check_end(&self, protocol: &Protocol, cases: usize) -> Result<()> {
        if self.mode == "single" && self.batch_size.is_some() && self.method.is_some() {
            let what = "--batch-size with records that are edited alone";
            return Err(Error::refused(what, "edit with --mode batch, or leave it out"));
        }
        let apart = matches!(protocol.mode, Mode::Batch(batch) if batch < cases);
        if (self.text.is_empty() && self.task.is_empty()) || !(apart || self.shard.is_some()) {
            return Ok(());
        }
        let what = "text and tasks are measured of a model in which all records are edited, and \
                    here they are edited apart";
        let remedy = "edit with --mode batch --batch-size all or with --mode sequential, without \
                      --shard; or leave --text and --task out";
        Err(Error::refused(what, remedy))
    }

    fn cases(&self, context: &Context, editor: &Editor) -> Result<Vec<Case>> {
        let mut all = editor.cases(&self.data)?;
        if let Some(n) = self.sample {
            all = drawn(all, n, context.seed);
        }
        all.truncate(self.limit.unwrap_or(usize::MAX));
        if self.shuffle {
            let order = drawn_order(all.len(), context.seed, "order of cases");
            let mut places: Vec<_> = all.into_iter().map(Some).collect();
            all = order.into_iter().filter_map(|i| places[i].take()).collect();
        }
        if let Some(share) = self.shard {
            let mut place = 0;
            all.retain(|_| {
                place += 1;
                share.has(place - 1)
            });
        }
        Ok(all)
    }

    fn protocol(&self, editor: &Editor, cases: usize) -> Result<Protocol> {
        let batch = match self.batch_size.as_deref() {
            None => None,
            Some("all") => Some(cases),
            Some(n) => Some(n.parse().ok().filter(|&n| n > 0).ok_or_else(|| {
                Error::refused(
                    format!("--batch-size {n}: no number from 1"),
                    "say a number, or all",
                )
            })?),
        };
        let mode = match (&self.method, &self.mode[..]) {
            (None, _) if !self.patch.is_empty() => {
                Mode::Given(editor.model_patched(&self.patch)?.into())
            }
            (None, _) if !self.with.is_empty() => {
                Mode::Given(editor.model_with(&self.with)?.into())
            }
            (None, _) => Mode::Unedited,
            (_, "batch") => Mode::Batch(batch.unwrap_or(cases)),
            (_, "sequential") => {
                let mut checkpoints = self.checkpoints.clone();
                checkpoints.retain(|&t| 0 < t && t < cases);
                checkpoints.push(cases);
                Mode::Sequential { batch: batch.unwrap_or(1), checkpoints }
            }
            _ => Mode::Batch(batch.unwrap_or(1)),
        };
        if self.snippets.is_some() && !self.asks(FLUENCY) {
            let what = "--snippets: sampled text is not among what --metrics names";
            return Err(Error::refused(what, "add fluency to --metrics, or leave --snippets out"));
        }
        let suites: Vec<&Suite> = SUITES
            .iter()
            .filter(|suite| match self.metrics.is_empty() {
                true => suite.by_default || (suite.name == FLUENCY && self.snippets.is_some()),
                false => self.metrics.iter().any(|name| name == suite.name),
            })
            .collect();
        let compat = match self.compat.as_deref() {
            Some("memit") => Compat::Memit,
            Some(_) => Compat::AlphaEdit,
            None => Compat::None,
        };
        let demonstrations = self.demonstrations.as_ref().map(Demonstrations::read).transpose()?;
        let snippets = self.snippets.as_ref().map(Snippets::read).transpose()?;
        let references = snippets.as_ref().map(References::new);
        let text = self.documents(editor)?;
        let tokens = TOKENS;
        let tasks = task::tasks(&self.task)?;
        Ok(Protocol { mode, suites, compat, demonstrations, references, text, tasks, tokens })
    }

    /// The tokens of the text's first documents, until there are as many as asked for.
    fn documents(&self, editor: &Editor) -> Result<Vec<Vec<u32>>> {
        let mut documents = Vec::new();
        if self.text.is_empty() {
            return Ok(documents);
        }
        let mut left = self.text_tokens;
        for text in Corpus::open(&self.text)?.documents() {
            let mut ids = editor.model().tokenizer().encode(&text?)?;
            ids.truncate(left);
            left -= ids.len();
            documents.push(ids);
            if left == 0 {
                break;
            }
        }
        Ok(documents)
    }

    /// What is kept of the run: another one does not go on from its results.
    fn described(&self, context: &Context, editor: &Editor, cases: usize) -> Result<Value> {
        let digests = |files: &[PathBuf]| -> Result<Vec<Value>> {
            files.iter().map(|file| digest(file, MAX_BYTES)).collect()
        };
        let data = digests(&self.data)?;
        let text = match self.text.is_empty() {
            true => Value::Null,
            false => json!(Corpus::open(&self.text)?.hash()?),
        };
        let snippets = self.snippets.as_ref().map(|file| digest(file, MAX_SNIPPETS)).transpose()?;
        Ok(json!({
            "program": env!("CARGO_PKG_VERSION"), "model": self.model,
            "model_fingerprint": editor.fingerprint(), "weights": editor.weights()?, "data": data,
            "cases": cases, "limit": self.limit, "sample": self.sample, "shuffle": self.shuffle,
            "shard": self.shard.map(|share| [share.i(), share.n()]),
            "method": self.method, "patch": digests(&self.patch)?, "with": digests(&self.with)?,
            "editing": self.editing.described()?,
            "mode": self.mode, "batch_size": self.batch_size, "checkpoints": self.checkpoints,
            "metrics_asked": self.metrics, "compat": self.compat,
            "demonstrations": self.demonstrations, "snippets": snippets, "seed": context.seed,
            "text": text, "text_tokens": self.text_tokens,
            "task": digests(&self.task)?,
        }))
    }

    /// Prints what came out.
    pub(super) fn print(context: &Context, summary: &Value, output: &Path) -> Result<()> {
        if context.json {
            return context.terminal.json(summary);
        }
        for (name, metric) in summary["metrics"].as_object().into_iter().flatten() {
            let number = |field: &str| metric[field].as_f64().unwrap_or(f64::NAN);
            let [mean, low, high, before] = ["mean", "low", "high", "before"].map(number);
            context.terminal.line(format!(
                "{name:44} {mean:7.2} [{low:6.2}, {high:6.2}]  before {before:7.2}  n {}",
                metric["n"]
            ))?;
        }
        context.terminal.line(output.display().to_string())
    }
}

/// What this call did.
fn session(context: &Context, work: WorkDone) -> Session {
    let stages = stages::to_json(&context.terminal.stages());
    Session {
        command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        device: context.device.title(),
        threads: rayon::current_num_threads(),
        facts: work.facts,
        cases: work.cases,
        stages: serde_json::from_value(stages).unwrap_or_default(),
        hyperparameters: work.hyperparameters,
    }
}

/// So many of the cases, in their order, drawn by a seed.
fn drawn(cases: Vec<Case>, n: usize, seed: u64) -> Vec<Case> {
    let order = drawn_order(cases.len(), seed, "sample of cases");
    let chosen: BTreeSet<usize> = order.into_iter().take(n).collect();
    cases
        .into_iter()
        .enumerate()
        .filter(|(i, _)| chosen.contains(i))
        .map(|(_, case)| case)
        .collect()
}

/// Places from 0 in an order drawn by a seed.
fn drawn_order(n: usize, seed: u64, purpose: &str) -> Vec<usize> {
    let mut rng = Rng::new(seed, purpose);
    let mut order: Vec<(u64, usize)> = (0..n).map(|i| (rng.bits(), i)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i).collect()
}
