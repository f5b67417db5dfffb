//! `incise logits MODEL --prompts FILE -o OUT`: what the model says after every token.
//!
//! Line i of the file (from 0, its line ending removed) becomes tensor `i` F32 (tokens, V), with
//! the special tokens the tokenizer adds. Rows go to the file as they are computed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::context::Context;
use crate::base::file::read_text;
use crate::base::units::counted;
use crate::base::{DType, Error, Progress, Result, Stage};
use crate::memory;
use crate::model::language_model::logits_in_chunks;
use crate::model::lineage::WeightsName;
use crate::model::{LanguageModel, Model, load};
use crate::store::place::{check_place, check_replaced};
use crate::store::{Checkpoint, Shard, write};

/// Rows of logits held at a time: 64 × 128 k tokens are 34 MB.
const ROWS: usize = 64;

/// What to run, and where to put it.
#[derive(Args)]
pub struct Logits {
    /// Folder of the checkpoint
    model: PathBuf,
    /// Text file, one prompt a line
    #[arg(long)]
    prompts: PathBuf,
    /// Files of edits that live beside the weights, each on what those before it left
    #[arg(long, value_name = "FILE", num_args = 1..)]
    with: Vec<PathBuf>,
    /// The safetensors file to write
    #[arg(short, long)]
    output: PathBuf,
}

impl Logits {
    /// Writes the file.
    pub fn run(&self, context: &Context) -> Result<()> {
        let read = [&self.model, &self.prompts].into_iter().chain(&self.with);
        check_place(&self.output, &read.map(|path| &**path).collect::<Vec<&Path>>())?;
        check_replaced(&self.output, is_logits(&self.output), "file of logits")?;
        let (checkpoint, model) = load::open(&self.model, &context.device, &context.terminal)?;
        let tokenizer = context.tokenizer(&self.model)?;
        let text = read_text(&self.prompts, 1 << 30)?;
        let prompts: Vec<Vec<u32>> =
            text.lines().map(|line| tokenizer.encode(line)).collect::<Result<_>>()?;
        for (i, ids) in prompts.iter().enumerate() {
            model.arch.check(ids).map_err(|e| {
                let line = format!("line {}", i + 1);
                Error::input(&self.prompts, line, e.to_string(), "change the line")
            })?;
        }
        let v = model.head.w.dims()[0];
        let with = self.with_memories(&checkpoint, model, &context.terminal)?;
        let item = |(i, ids): (usize, &Vec<u32>)| write::Item {
            name: i.to_string(),
            dtype: DType::F32.into(),
            shape: vec![ids.len(), v],
        };
        let items: Vec<_> = prompts.iter().enumerate().map(item).collect();
        let total = prompts.len() as u64;
        let mut finite = true;
        let mut failed = None;
        let written = write::write(&self.output, &BTreeMap::new(), &items, &mut |i, out| {
            context.terminal.at(Stage::Prompt, i as u64, total);
            if context.terminal.cancelled() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled"));
            }
            let mut done = Ok(());
            let ran = logits_in_chunks(&*with, &prompts[i], ROWS, &mut |z| {
                finite = z.get::<f32>().iter().all(|z| z.is_finite());
                done = if finite {
                    out.write_all(bytemuck::cast_slice(z.get::<f32>()))
                } else {
                    Err(io::Error::other(format!("the logits of line {}", i + 1)))
                };
                done.is_ok()
            });
            if let Err(error) = ran {
                failed = Some(error);
                return Err(io::Error::other("the model failed"));
            }
            done
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if let (false, Err(Error::Io { source, .. })) = (finite, &written) {
            let what = format!("{}: {source} are not finite", self.prompts.display());
            return Err(Error::numeric(what, "check the checkpoint for NaN weights"));
        }
        if context.terminal.cancelled() && written.is_err() {
            return Err(Error::Interrupted { kept: "nothing was written".into() });
        }
        written?;
        let tokens: usize = prompts.iter().map(Vec::len).sum();
        if context.json {
            return context.terminal.json(&json!({
                "output": self.output, "prompts": prompts.len(), "tokens": tokens,
            }));
        }
        let (n, tokens) = (counted(total, "prompt"), counted(tokens as u64, "token"));
        let output = self.output.display();
        context.terminal.line(format!("{output}: {n}, {tokens}"))
    }

    /// The model with the memories that are named.
    fn with_memories(
        &self,
        checkpoint: &Checkpoint,
        model: Model,
        progress: &dyn Progress,
    ) -> Result<Arc<dyn LanguageModel>> {
        let mut with: Arc<dyn LanguageModel> = Arc::new(model);
        if self.with.is_empty() {
            return Ok(with); // a name reads a sample of every tensor
        }
        let name = WeightsName::of(checkpoint, progress)?;
        for file in &self.with {
            with = memory::open(file, &*with, &name)?.on(with)?;
        }
        Ok(with)
    }
}

/// Whether a file holds tensors named 0, 1, …, as this command writes them.
fn is_logits(path: &Path) -> bool {
    Shard::open(path).is_ok_and(|shard| {
        let tensors = &shard.header().tensors;
        (0..tensors.len()).all(|i| tensors.contains_key(&i.to_string()))
    })
}
