//! `incise edit MODEL REQUESTS --method M … -o PATCH`: the patch that changes facts.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::chat::{ChatFlags, assignment};
use super::context::Context;
use super::{dry_run, memory, report, stages};
use crate::base::units::counted;
use crate::base::{Error, Result, Share, Stage};
use crate::data::Fact;
use crate::data::broken::OnBroken;
use crate::data::conflicts::OnConflict;
use crate::data::request::MAX_BYTES;
use crate::edit::methods::METHODS;
use crate::editor::Editor;

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
    /// Folder of `incise stats`; needed where C is used
    #[arg(long)]
    stats: Option<PathBuf>,
    /// Hyperparameters by the names of ROME, MEMIT and EasyEdit config files: a JSON or YAML file,
    /// or a preset such as gpt2-xl [default, and what a file leaves open: the preset of the model's
    /// sizes]
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
    #[command(flatten)]
    chat_flags: ChatFlags,
    /// No space between prompts and targets, where a record does not say otherwise [default: one,
    /// unless the prompt ends or the target begins so that none belongs there]
    #[arg(long)]
    no_space: bool,
    /// What to do where records cannot be used: name them and stop, or go on without them
    #[arg(long, value_parser = ["error", "skip"], default_value = "error")]
    on_broken: String,
    /// Which request counts where several ask one prompt for different targets
    #[arg(long, value_parser = ["error", "last", "first"], default_value = "error")]
    on_conflict: String,
    /// Leave out the facts of these ids; values found by an earlier run serve again
    #[arg(long, value_name = "ID", num_args = 1..)]
    without: Vec<String>,
    /// Of the value search on a GPU: exact, or fast, which rounds activations to bf16
    #[arg(long, value_parser = ["exact", "fast"], default_value = "exact")]
    precision: String,
    /// Leave out what the CPU checks of a GPU: the first look of the search, of the first fact
    #[arg(long)]
    no_check: bool,
    /// Say what would be done, and stop before the work
    #[arg(long)]
    dry_run: bool,
    /// State of a sequential method: read where it is there, and written after the patch
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Edit in batches of so many facts, each on the model as those before it left it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sequential: Option<u64>,
    /// Bytes the searches may take, such as 8G [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse)]
    memory: Option<u64>,
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
        report::print(context, &edit, &self.method.to_lowercase(), &self.output)
    }

    fn editor(&self, context: &Context) -> Result<Editor> {
        let mut editor = Editor::open_on(&self.model, &context.device, &context.terminal)?
            .progress(context.terminal.clone())
            .method(&self.method)?
            .seed(context.seed)
            .sequential(self.sequential.unwrap_or(0) as usize)
            .without(&self.without)
            .values(&self.values)
            .on_conflict(match self.on_conflict.as_str() {
                "last" => OnConflict::Last,
                "first" => OnConflict::First,
                _ => OnConflict::Error,
            });
        if self.on_broken == "skip" {
            editor = editor.on_broken(OnBroken::Skip);
        }
        if self.no_check {
            editor = editor.no_check();
        }
        if self.no_space {
            editor = editor.no_space();
        }
        if self.precision == "fast" {
            editor = editor.fast_search()?;
        }
        if let Some(dir) = &self.stats {
            editor = editor.statistics(dir)?;
        }
        if let Some(hparams) = &self.hparams {
            editor = editor.hparams(hparams)?;
        }
        for set in &self.sets {
            let (name, value) = assignment("--set", set, "v_lr=0.5")?;
            editor = editor.set_from(&name, value, "--set")?;
        }
        if let Some(file) = &self.contexts {
            editor = editor.contexts(file)?;
        }
        if self.chat {
            editor = editor.chat_with(self.chat_flags.settings()?)?;
        }
        if let Some(bytes) = self.memory {
            editor = editor.memory(bytes);
        }
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
            let stages = stages::to_json(&stages);
            return context.terminal.json(&json!({
                "output": output, "values": values, "seconds": seconds, "stages": stages,
            }));
        }
        let values = counted(values, "value");
        context.terminal.line(format!("{}: {values} in {seconds:.1} s", output.display()))?;
        context.terminal.line(stages::line(&stages))
    }
}
