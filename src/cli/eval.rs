//! `incise eval MODEL --data FILE… [--method M | --patch P… | --with FILE…] -o DIR`: what became of
//! edits.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::Value;

use super::context::Context;
use super::editing::Editing;
use crate::base::{Result, Share};
use crate::edit::methods::METHODS;
use crate::editor::evaluate::{BatchSize, EditMode, EvaluationFiles, TEXT_TOKENS};
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
    #[arg(long, default_value = EditMode::Single.name())]
    #[arg(value_parser = PossibleValuesParser::new(EditMode::NAMES)
          .try_map(|name| EditMode::from_str(&name)))]
    mode: EditMode,
    /// Records that are edited at once: a number, or all [default: all in batches, 1 upon the
    /// other]
    #[arg(long, value_name = "N|all")]
    batch_size: Option<BatchSize>,
    /// Records that are edited when all so far are measured; ascending. All is the last
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',')]
    checkpoints: Vec<usize>,
    /// What to measure, by the first word of metrics' names
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',',
          value_parser = suite_names())]
    metrics: Vec<String>,
    /// Tokenise what CounterFact's metrics compare as this code does
    #[arg(long)]
    #[arg(value_parser = PossibleValuesParser::new(Compat::NAMES)
          .try_map(|name| Compat::from_str(&name)))]
    compat: Option<Compat>,
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
    #[arg(long, value_name = "N", default_value_t = TEXT_TOKENS)]
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

impl Eval {
    /// Edits, measures, and prints what came out.
    pub fn run(&self, context: &Context) -> Result<()> {
        let mut editor = self.editing.editor(&self.model, context)?;
        if let Some(method) = &self.method {
            editor = editor.method(method)?;
        }
        let summary = editor.evaluate_files(&self.files())?;
        Self::print(context, &summary, &self.output)
    }

    fn files(&self) -> EvaluationFiles {
        EvaluationFiles {
            data: self.data.clone(),
            patches: self.patch.clone(),
            memories: self.with.clone(),
            mode: self.mode,
            batch_size: self.batch_size,
            checkpoints: self.checkpoints.clone(),
            metrics: self.metrics.clone(),
            compat: self.compat.unwrap_or_default(),
            demonstrations: self.demonstrations.clone(),
            snippets: self.snippets.clone(),
            text: self.text.clone(),
            text_tokens: Some(self.text_tokens),
            tasks: self.task.clone(),
            sample: self.sample,
            limit: self.limit,
            shuffle: self.shuffle,
            share: self.shard,
            command: std::env::args_os().map(|word| word.to_string_lossy().into()).collect(),
            output: self.output.clone(),
        }
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
