//! How facts are edited: what `edit` and `eval` share.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::chat::{ChatFlags, assignment};
use super::context::Context;
use super::memory;
use crate::base::Result;
use crate::editor::Editor;

/// How facts are edited.
#[derive(Args)]
pub(super) struct Editing {
    /// Folder of `incise stats`; needed where C is used
    #[arg(long)]
    stats: Option<PathBuf>,
    /// Folder of `incise train`; needed by methods that edit with what was trained
    #[arg(long, value_name = "DIR")]
    editor: Option<PathBuf>,
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
    /// Of the value search on a GPU: exact, or fast, which rounds activations to bf16
    #[arg(long, value_parser = ["exact", "fast"], default_value = "exact")]
    precision: String,
    /// Leave out what the CPU checks of a GPU: the first look of the search, of the first fact
    #[arg(long)]
    no_check: bool,
    /// Bytes the searches may take, such as 8G [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse)]
    memory: Option<u64>,
}

impl Editing {
    /// An editor of a checkpoint with these settings.
    pub fn editor(&self, model: &Path, context: &Context) -> Result<Editor> {
        let mut editor = Editor::open_on(model, &context.device, &context.terminal)?
            .progress(context.terminal.clone())
            .seed(context.seed);
        let options = [
            ("on_broken", json!(self.on_broken)),
            ("on_conflict", json!(self.on_conflict)),
            ("precision", json!(self.precision)),
            ("no_check", json!(self.no_check)),
            ("no_space", json!(self.no_space)),
            ("memory", json!(self.memory)),
        ];
        for (name, value) in &options {
            editor = editor.option(name, value)?;
        }
        if let Some(dir) = &self.stats {
            editor = editor.statistics(dir)?;
        }
        if let Some(dir) = &self.editor {
            editor = editor.trained_editor(dir)?;
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
        Ok(editor)
    }
}
