//! `incise tune MODEL --data FILE… --method M -o FILE`: settings for a model that nobody has
//! published any for.
//!
//! Beside FILE a folder `FILE.tune` gets the table of what was tried, the curve, the report, and
//! what serves a run that goes on. docs/tune.md has the fields.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::editing::Editing;
use crate::base::Result;
use crate::edit::methods::METHODS;
use crate::editor::tune::{TuneFiles, Tuned};

/// What to tune, for how many facts, by which records.
#[derive(Args)]
pub struct Tune {
    /// Folder of the checkpoint
    model: PathBuf,
    /// Records of CounterFact's form: some choose settings, others report what they do
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// The method
    #[arg(long, ignore_case = true, value_parser = METHODS.map(|method| method.about().name))]
    method: String,
    /// Facts that will be edited at once, or by rome and r-rome one upon the other [default: 20; of
    /// these two 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    facts: Option<u64>,
    /// Text to collect statistics of keys from, a document a line, where the method needs them and
    /// --stats names none
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "stats")]
    corpus: Vec<PathBuf>,
    #[command(flatten)]
    editing: Editing,
    /// File of the hyperparameters, which `incise edit --hparams` reads
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Tune {
    /// Chooses settings, reports what they do, and writes them.
    pub fn run(&self, context: &Context) -> Result<()> {
        let editor = self.editing.editor(&self.model, context)?.method(&self.method)?;
        let by = TuneFiles {
            data: self.data.clone(),
            facts: self.facts.map(|facts| facts as usize),
            corpus: self.corpus.clone(),
            output: self.output.clone(),
        };
        let tuned = editor.tune_files(&by)?;
        self.print(context, &tuned, &by.folder())
    }

    fn print(&self, context: &Context, tuned: &Tuned, dir: &Path) -> Result<()> {
        let terminal = &context.terminal;
        if context.json {
            let mut told = json!(tuned);
            told["output"] = json!(self.output);
            told["folder"] = json!(dir);
            return terminal.json(&told);
        }
        let (reported, gap) = (&tuned.reported, &tuned.gap);
        let trial = &reported.trial;
        let [low, high] = reported.es_interval;
        terminal.line(format!("chosen: {}", tuned.why))?;
        terminal.line(format!(
            "reported on {} other records, {} together, each batch on the unedited model:",
            trial.facts, trial.at_once
        ))?;
        terminal.line(format!(
            "  counterfact.es {:.1} [{low:.1}, {high:.1}], {} of {} taken",
            trial.es, trial.taken, trial.facts
        ))?;
        terminal.line(format!("  counterfact.ps {:.1}", trial.ps))?;
        terminal.line(format!(
            "  counterfact.ns {:.1}, {:+.1} against unedited, above {:+.1} with 95 %",
            trial.ns, trial.ns_change, reported.ns_change_low
        ))?;
        terminal.line(format!(
            "  choosing less reporting, in points: es {:+.1}, ps {:+.1}, change of ns {:+.1}, \
             score {:+.1}",
            gap.es, gap.ps, gap.ns_change, gap.score
        ))?;
        terminal.line(format!(
            "{}; {} has table.json and trade-off.svg; {}",
            self.output.display(),
            dir.display(),
            reported.folder.join("report.html").display()
        ))
    }
}
