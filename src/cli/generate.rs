//! `incise generate MODEL --prompt …`: the model's own words.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use crate::base::file::read_file;
use crate::base::{Error, Progress, Result, Rng};
use crate::model::generate::Sampling;
use crate::model::load;
use crate::text::{Chat, DecodeStream, Tokenizer};

/// What to go on from, and how.
#[derive(Args)]
pub struct Generate {
    /// Folder of the checkpoint
    model: PathBuf,
    /// The text to go on from
    #[arg(long)]
    prompt: String,
    /// The text is a user's message in the model's chat template; the answer is shown
    #[arg(long)]
    chat: bool,
    /// At most this many tokens
    #[arg(long, default_value_t = 64)]
    max_tokens: usize,
    /// 0 takes the likeliest token; 1 samples the model's own distribution
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Sample among the k likeliest tokens only; 0 for all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Sample among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
}

impl Generate {
    /// Prints prompt and text as the tokens come.
    pub fn run(&self, context: &Context) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::refused("--temperature: not a number from 0", "say 0 or 0.8"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::refused("--top-p: not above 0 and up to 1", "say 0.9"));
        }
        let (_, model) = load::open(&self.model, &context.device)?;
        let tokenizer = Tokenizer::open(&self.model)?;
        let chat = self.chat.then(|| Chat::open(&self.model)?.render(&self.prompt)).transpose()?;
        let ids = match &chat {
            Some(chat) => tokenizer.encode_bare(chat)?.ids,
            None => tokenizer.encode(&self.prompt)?,
        };
        let (temperature, top_k, top_p) = (self.temperature, self.top_k, self.top_p);
        let sampling = Sampling { temperature, top_k, top_p };
        let mut rng = Rng::new(context.seed, "generate");
        let (show, mut stream) = (!context.json, DecodeStream::new(&tokenizer, &ids));
        let (mut text, mut failed) = (String::new(), Ok(()));
        if show && !self.chat {
            context.terminal.text(&self.prompt)?;
        }
        let start = Instant::now();
        let stop = stop_tokens(&self.model);
        let tokens =
            model.generate(&ids, self.max_tokens, sampling, &mut rng, &stop, &mut |token| {
                let shown = stream.push(token).and_then(|piece| {
                    text.push_str(&piece);
                    if show { context.terminal.text(&piece) } else { Ok(()) }
                });
                failed = shown;
                failed.is_ok() && !context.terminal.stop()
            })?;
        failed?;
        let rest = stream.finish()?;
        text.push_str(&rest);
        if show {
            return context.terminal.line(rest);
        }
        context.terminal.json(&json!({
            "prompt": self.prompt, "chat": chat,
            "text": text, "prompt_tokens": ids, "tokens": tokens,
            "seconds": start.elapsed().as_secs_f64(),
        }))
    }
}

/// The ids that end a text, by `generation_config.json` or else `config.json`.
fn stop_tokens(model: &Path) -> Vec<u32> {
    let read = |file: &str| -> Option<Value> {
        let bytes = read_file(&model.join(file), 1 << 20).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()?.get("eos_token_id").cloned()
    };
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match read("generation_config.json").or_else(|| read("config.json")) {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(one) => id(&one).into_iter().collect(),
        None => vec![],
    }
}
