//! `incise edit MODEL REQUESTS --method M … -o PATCH`: the patch that changes facts.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::editing::Editing;
use super::{dry_run, report};
use crate::base::units::counted;
use crate::base::{Error, Progress, Result, Share, Stage, stages};
use crate::data::Fact;
use crate::data::request::MAX_BYTES;
use crate::edit::methods::METHODS;
use crate::editor::Editor;
use crate::eval::session::StageCost;

/// What to change, how, and where to put the patch.
#[derive(Args)]
#[command(after_help = hyperparameters())]
pub struct EditCommand {
    /// Folder of the checkpoint
    model: PathBuf,
    /// Requests: JSON Lines or a JSON array, native, CounterFact, zsRE, EasyEdit, QAEdit,
    /// WikiBigEdit or MQuAKE; `-` reads standard input
    #[arg(required_unless_present = "prompt", conflicts_with = "prompt")]
    requests: Option<PathBuf>,
    /// Instead of a file: the prompt of one fact, with {} where its subject goes
    #[arg(long, requires = "to")]
    prompt: Option<String>,
    /// The fact's subject [default: the whole prompt]
    #[arg(long, requires = "prompt")]
    subject: Option<String>,
    /// What the prompt should go on with
    #[arg(long, requires = "prompt")]
    to: Option<String>,
    /// How to edit; `incise methods` describes them
    #[arg(long, ignore_case = true, value_parser = METHODS.map(|method| method.about().name))]
    method: String,
    #[command(flatten)]
    editing: Editing,
    /// Leave out the facts of these ids; values found by an earlier run serve again
    #[arg(long, value_name = "ID", num_args = 1..)]
    without: Vec<String>,
    /// Say what would be done, and stop before the work
    #[arg(long)]
    dry_run: bool,
    /// State of a sequential method: read where it is there, and written after the patch
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Edit in batches of so many facts, each on the model as those before it left it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sequential: Option<u64>,
    /// Plan facts that were not taken again, in up to so many rounds in all, while that helps
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Search the values of every n-th fact only, from the i-th (from 0), and write them to -o
    #[arg(long, value_name = "I/N")]
    shard: Option<Share>,
    /// Values found before, by `--shard` runs or `incise merge`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    values: Vec<PathBuf>,
    /// The patch to write
    #[arg(short, long)]
    output: PathBuf,
}

/// All that is piped into the program.
fn standard_input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes);
    let size = read.map_err(|e| Error::io("standard input", "read", e))?;
    if size as u64 > MAX_BYTES {
        let what = format!("has more than {MAX_BYTES} bytes");
        return Err(Error::input("standard input", "size", what, "divide it"));
    }
    Ok(bytes)
}

/// The hyperparameters of each method, for `--help`.
fn hyperparameters() -> String {
    let mut help = "Hyperparameters (`incise methods NAME` describes them):".to_owned();
    for method in METHODS {
        help += &format!("\n  {}", method.about().name);
        for names in method.params().chunks(4) {
            let names: Vec<&str> = names.iter().map(|param| param.name).collect();
            help += &format!("\n      {}", names.join(" "));
        }
    }
    help
}

impl EditCommand {
    /// Plans the change and writes it.
    pub fn run(&self, context: &Context) -> Result<()> {
        let editor = self.editor(context)?;
        let subject = self.subject.as_deref().unwrap_or_default();
        let prepared = match (&self.requests, &self.prompt, &self.to) {
            (Some(file), ..) if file == Path::new("-") => {
                editor.prepare_text("standard input", &standard_input()?)?
            }
            (Some(file), ..) => editor.prepare_file(file)?,
            (None, Some(prompt), Some(to)) => editor.prepare(&[Fact::new(prompt, subject, to)])?,
            _ => {
                let remedy = "name a file, or --prompt, --subject and --to";
                return Err(Error::refused("no request", remedy));
            }
        };
        if self.dry_run {
            return dry_run::print(context, &prepared);
        }
        if self.shard.is_some() {
            let values = prepared.search_values()?;
            return self.print_values(context, values);
        }
        let edit = prepared.plan()?;
        context.terminal.enter(Stage::WriteResults);
        edit.write(&self.output)?;
        report::print(context, &edit, &self.output)
    }

    fn editor(&self, context: &Context) -> Result<Editor> {
        let mut editor = self
            .editing
            .editor(&self.model, context)?
            .method(&self.method)?
            .sequential(self.sequential.unwrap_or(0) as usize)
            .rounds(self.rounds as usize)
            .without(&self.without)
            .values(&self.values);
        if let Some(file) = &self.state {
            editor = editor.state(file);
        }
        if let Some(share) = self.shard {
            editor = editor.shard(share);
        }
        Ok(editor.output(&self.output))
    }

    fn print_values(&self, context: &Context, values: u64) -> Result<()> {
        let stages = context.terminal.stages();
        let seconds = stages::seconds(&stages);
        let output = &self.output;
        if context.json {
            let stages = json!(StageCost::of(&stages));
            return context.terminal.json(&json!({
                "output": output, "values": values, "seconds": seconds, "stages": stages,
            }));
        }
        let values = counted(values, "value");
        context.terminal.line(format!("{}: {values} in {seconds:.1} s", output.display()))?;
        context.terminal.line(stages::line(&stages))
    }
}
