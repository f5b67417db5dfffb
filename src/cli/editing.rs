//! How facts are edited: what `edit` and `eval` share.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::chat::{ChatFlags, assignment};
use super::context::Context;
use super::memory;
use crate::base::Result;
use crate::base::file::read_file;
use crate::data::broken::OnBroken;
use crate::data::conflicts::OnConflict;
use crate::editor::Editor;
use crate::store::tensor_fingerprint;

/// Far above any file of settings.
const MAX_SETTINGS: u64 = 1 << 24;

/// How facts are edited.
#[derive(Args)]
pub(super) struct Editing {
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
            .seed(context.seed)
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
        match self.memory {
            Some(bytes) => Ok(editor.memory(bytes)),
            None => Ok(editor),
        }
    }

    /// What a record of the run says of these settings; of files also what their bytes are.
    pub fn described(&self) -> Result<Value> {
        let digests = |file: &Option<PathBuf>| match file {
            Some(file) if file.is_file() => digest(file, MAX_SETTINGS),
            file => Ok(json!(file)),
        };
        Ok(json!({
            "stats": self.stats, "hparams": digests(&self.hparams)?, "set": self.sets,
            "contexts": digests(&self.contexts)?, "chat": self.chat_flags.described(self.chat),
            "no_space": self.no_space,
            "on_broken": self.on_broken, "on_conflict": self.on_conflict,
            "precision": self.precision,
        }))
    }
}

/// A file and a fingerprint of its bytes, for records of runs.
pub(super) fn digest(file: &PathBuf, most: u64) -> Result<Value> {
    let bytes = read_file(file, most)?;
    Ok(json!({"file": file, "fingerprint": tensor_fingerprint(&bytes)}))
}
