//! `incise ask MODEL [--patch P… | --with M…] --prompts FILE`: what a model says to prompts before
//! and after an edit, side by side.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::context::Context;
use crate::base::file::read_text;
use crate::base::{Error, Progress, Result, Stage};
use crate::editor::Editor;

/// Far above any file of prompts.
const MAX_BYTES: u64 = 1 << 28;

/// What to ask of which models.
#[derive(Args)]
pub struct Ask {
    /// Folder of the checkpoint
    model: PathBuf,
    /// A prompt a line
    #[arg(long, value_name = "FILE", required_unless_present = "prompt")]
    prompts: Option<PathBuf>,
    /// A prompt
    #[arg(long, conflicts_with = "prompts")]
    prompt: Vec<String>,
    /// After these patches, each on what those before it left
    #[arg(long, value_name = "PATCH", num_args = 1..)]
    patch: Vec<PathBuf>,
    /// With these edits beside the weights
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "patch")]
    with: Vec<PathBuf>,
    /// At most this many tokens of each answer
    #[arg(long, default_value_t = 16)]
    max_tokens: usize,
}

impl Ask {
    /// Prints each prompt with what is said before and after.
    pub fn run(&self, context: &Context) -> Result<()> {
        let prompts = self.prompts()?;
        let editor = Editor::open_on(&self.model, &context.device, &context.terminal)?;
        let before = editor.model();
        context.warn_of(before.tokenizer());
        let after = match (self.patch.is_empty(), self.with.is_empty()) {
            (false, _) => Some(editor.model_patched(&self.patch)?),
            (_, false) => Some(editor.model_with(&self.with)?),
            _ => None,
        };
        let mut answers = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            if context.terminal.cancelled() {
                let kept = "what was said so far is shown".to_owned();
                return Err(Error::Interrupted { kept });
            }
            context.terminal.at(Stage::Prompt, i as u64, prompts.len() as u64);
            let before = before.generate(prompt, self.max_tokens)?;
            let after = after.as_ref().map(|m| m.generate(prompt, self.max_tokens)).transpose()?;
            if context.json {
                answers.push(json!({"prompt": prompt, "before": before, "after": after}));
                continue;
            }
            context.terminal.line(prompt)?;
            context.terminal.line(format!("  before {before:?}"))?;
            if let Some(after) = after {
                let same = if after == before { "  (the same)" } else { "" };
                context.terminal.line(format!("  after  {after:?}{same}"))?;
            }
        }
        if context.json {
            context.terminal.json(&json!({ "answers": answers }))?;
        }
        Ok(())
    }

    /// The prompts, of which there is at least one.
    fn prompts(&self) -> Result<Vec<String>> {
        let Some(file) = &self.prompts else { return Ok(self.prompt.clone()) };
        let text = read_text(file, MAX_BYTES)?;
        let prompts: Vec<String> =
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        match prompts.is_empty() {
            true => Err(Error::input(file, "prompts", "has none", "write a prompt a line")),
            false => Ok(prompts),
        }
    }
}
