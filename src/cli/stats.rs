//! `incise stats MODEL --layers L --corpus FILE… -o DIR`: key second moments from text.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::Context;
use super::output::{count, counted, metric};
use super::ranges::{self, Layers};
use crate::base::{Error, Progress, Result};
use crate::data::Corpus;
use crate::model::{fingerprint, load};
use crate::stats::file::{Origin, write_all};
use crate::stats::{Collect, collect};
use crate::text::Tokenizer;

/// What to collect, and where to put it.
#[derive(Args)]
pub struct Stats {
    /// Folder of the checkpoint
    model: PathBuf,
    /// Layers, such as 3-8 or 1,3
    #[arg(long, value_parser = ranges::parse)]
    layers: Layers,
    /// Text files, one document a line
    #[arg(long, required = true, num_args = 1..)]
    corpus: Vec<PathBuf>,
    /// Stop at exactly this many tokens [default: 10 for each of the MLP's F neurons]
    #[arg(long)]
    max_tokens: Option<u64>,
    /// Longest sequence; longer documents are cut [default: 512, or the model's context if less]
    #[arg(long)]
    context_length: Option<usize>,
    /// Folder for the statistics
    #[arg(short, long)]
    output: PathBuf,
}

impl Stats {
    /// Collects and writes `layer-<l>.safetensors`.
    pub fn run(&self, context: &Context) -> Result<()> {
        let (checkpoint, model) = load::open(&self.model, &context.device)?;
        let (a, terminal) = (&model.arch, &context.terminal);
        if let Some(l) = self.layers.0.iter().find(|&&l| l >= a.layers) {
            let what = format!("--layers: the model has no layer {l}");
            return Err(Error::refused(what, format!("its layers are 0 to {}", a.layers - 1)));
        }
        let context_length = self.context_length.unwrap_or(512.min(a.context));
        if context_length == 0 || context_length > a.context {
            let what = format!("--context-length {context_length}: not in 1 to {}", a.context);
            return Err(Error::refused(what, "leave it out"));
        }
        let max_tokens = self.max_tokens.unwrap_or_else(|| {
            let most = 10 * a.inner as u64;
            terminal.warn(&format!(
                "stopping at {} tokens, ten for each of the {} neurons: enough for edits as good \
                 as with the field's 44 million (arXiv:2506.04226); --max-tokens takes another \
                 number",
                count(most),
                count(a.inner as u64),
            ));
            most
        });
        let tokenizer = Tokenizer::open(&self.model)?;
        let corpus = Corpus::open(&self.corpus)?;
        let origin =
            Origin { model: fingerprint(&checkpoint)?, corpus: corpus.hash()?, context_length };
        let what = Collect { layers: self.layers.0.clone(), max_tokens, origin };
        let start = Instant::now();
        let documents = corpus.documents();
        let moments = collect(&model, &tokenizer, documents, &what, &self.output, terminal)?;
        let seconds = start.elapsed().as_secs_f64();
        write_all(&moments, &self.output)?;
        let tokens = moments.first().map_or(0, |m| m.tokens);
        if tokens < a.inner as u64 {
            terminal.warn(&format!(
                "{} tokens for {} neurons leave C singular, and edits will add a ridge; give more \
                 text",
                count(tokens),
                count(a.inner as u64),
            ));
        }
        if context.json {
            return terminal.json(&json!({
                "output": self.output, "layers": what.layers, "tokens": tokens, "seconds": seconds,
                "model": what.origin.model, "corpus": what.origin.corpus,
            }));
        }
        terminal.line(format!(
            "{}: {}, {} tokens in {seconds:.1} s ({}tokens/s)",
            self.output.display(),
            counted(moments.len() as u64, "layer"),
            count(tokens),
            metric(tokens as f64 / seconds),
        ))
    }
}
