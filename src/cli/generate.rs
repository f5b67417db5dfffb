//! `incise generate MODEL --prompt …`: the model's own words.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::chat::ChatFlags;
use super::context::Context;
use super::import::ModelFolder;
use crate::base::{Progress, Result};
use crate::editor::Editor;
use crate::editor::text_model::Generation;
use crate::model::generate::Sampling;

/// What to go on from, and how.
#[derive(Args)]
pub struct Generate {
    /// Folder of the checkpoint, or a GGUF file
    model: PathBuf,
    /// The text to go on from
    #[arg(long)]
    prompt: String,
    /// Files of edits that live beside the weights, each on what those before it left
    #[arg(long, value_name = "FILE", num_args = 1..)]
    with: Vec<PathBuf>,
    /// The text is a user's message in the model's chat template; the answer is shown
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    chat_flags: ChatFlags,
    /// At most this many tokens
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// 0 takes the likeliest token; 1 samples the model's own distribution
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Sample among the k likeliest tokens only; 0 for all. Needs a temperature
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Sample among the likeliest tokens that together reach this probability. Needs a temperature
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
}

impl Generate {
    /// Prints prompt and text as the tokens come.
    pub fn run(&self, context: &Context) -> Result<()> {
        let folder = ModelFolder::open(&self.model, context)?;
        let editor = Editor::open_on(folder.path(), &context.device, &context.terminal)?;
        let model = editor.model_with(&self.with)?;
        context.warn_of(model.tokenizer());
        let sampling =
            Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p };
        let chat = self.chat.then(|| self.chat_flags.settings()).transpose()?;
        let (max_tokens, seed) = (self.max_tokens, context.seed);
        let how = Generation { max_tokens, sampling, seed, chat };
        let show = !context.json;
        // The prompt is shown with what follows, and not where the model refuses it.
        let mut prompt = (show && !self.chat).then_some(&self.prompt[..]);
        let start = Instant::now();
        let said = model.generate_with(&self.prompt, &how, &mut |piece| {
            if show {
                context.terminal.text(&format!("{}{piece}", prompt.take().unwrap_or_default()))?;
            }
            Ok(!context.terminal.cancelled())
        })?;
        if show {
            context.terminal.text(prompt.unwrap_or_default())?;
            return context.terminal.line("");
        }
        context.terminal.json(&json!({
            "prompt": self.prompt, "chat": said.rendered,
            "text": said.text, "prompt_tokens": said.prompt_tokens, "tokens": said.tokens,
            "seconds": start.elapsed().as_secs_f64(),
        }))
    }
}
