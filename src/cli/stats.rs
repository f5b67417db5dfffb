//! `incise stats MODEL --layers L --corpus FILE… -o DIR`: second moments of keys, or of what other
//! matrices read, from text; `stats import` takes those of the original code, `stats merge` adds up
//! what several runs or the shards of one collected.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::Context;
use crate::base::ranges::{self, Layers};
use crate::base::units::{count, counted, metric};
use crate::base::{Error, Result, Share};
use crate::editor::Editor;
use crate::editor::statistics::Gathering;
use crate::model::{fingerprint, load};
use crate::stats::{Input, LayerInput, Moment, import, merge};

/// Statistics from text, or from other statistics.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Stats {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    gather: Option<Gather>,
}

/// A checkpoint in a folder of such a name is `./import` or `./merge`.
#[derive(Subcommand)]
enum Other {
    /// Take a layer's second moment from an .npz file of the original code or of EasyEdit
    Import(Import),
    /// Add up what several runs collected from different text, or the shards of one
    Merge(Merge),
}

/// What to collect, and where to put it.
#[derive(Args)]
struct Gather {
    /// Folder of the checkpoint
    model: PathBuf,
    /// Layers, such as 3-8 or 1,3
    #[arg(long, value_parser = ranges::parse)]
    layers: Layers,
    /// What to take the moments of: key (what the down projection reads), attention-input (q, k,
    /// v), attended (o), mlp-input (gate, up); several in one pass if given again
    #[arg(long = "site", default_value = "key", value_name = "SITE")]
    sites: Vec<Input>,
    /// Text files, one document a line; or JSON Lines or JSON with each document as `text`; or
    /// either compressed by gzip
    #[arg(long, required = true, num_args = 1..)]
    corpus: Vec<PathBuf>,
    /// Stop at exactly this many tokens, or where the text ends [default: 10 for each of the MLP's
    /// F neurons, or of the width of the widest site]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: Option<u64>,
    /// Longest sequence; longer documents are cut [default: 512, or the model's context if less]
    #[arg(long)]
    context_length: Option<usize>,
    /// Run every n-th sequence only, from the i-th (from 0); `stats merge` adds up all n
    #[arg(long, value_name = "I/N")]
    shard: Option<Share>,
    /// Divide keys by the root of the norm behind their MLP, in families that have one there: what
    /// a change costs text behind that norm
    #[arg(long)]
    normed: bool,
    /// Folder for the statistics
    #[arg(short, long)]
    output: PathBuf,
}

/// Whose statistics, from which file, for which layer.
#[derive(Args)]
struct Import {
    /// Folder of the checkpoint that the statistics are of
    model: PathBuf,
    /// The .npz file, with the arrays mom2.mom2 and mom2.count
    file: PathBuf,
    /// The layer whose keys it is of
    #[arg(long)]
    layer: usize,
    /// Folder for the statistics
    #[arg(short, long)]
    output: PathBuf,
}

/// What to add up.
#[derive(Args)]
struct Merge {
    /// Folders of statistics of one model
    #[arg(required = true, num_args = 1..)]
    folders: Vec<PathBuf>,
    /// Folder for the merged statistics
    #[arg(short, long)]
    output: PathBuf,
}

impl Stats {
    /// Writes `layer-<l>.safetensors` for some layers, and those of other sites.
    pub fn run(&self, context: &Context) -> Result<()> {
        match (&self.other, &self.gather) {
            (Some(Other::Import(import)), _) => import.run(context),
            (Some(Other::Merge(merge)), _) => merge.run(context),
            (None, Some(gather)) => gather.run(context),
            (None, None) => Err(Error::refused("stats: no model", "see incise stats --help")),
        }
    }
}

impl Import {
    fn run(&self, context: &Context) -> Result<()> {
        let (checkpoint, model) = load::open(&self.model, &context.device, &context.terminal)?;
        let (l, last) = (self.layer, model.arch.layers - 1);
        if l > last {
            let what = format!("--layer: the model has no layer {l}");
            return Err(Error::refused(what, format!("its layers are 0 to {last}")));
        }
        let name = fingerprint(&checkpoint, &context.terminal)?;
        let moment = import::npz(&self.file, l, model.arch.inner, &name)?;
        Moment::check_overwrite(&self.output, l, &moment.origin, None, moment.tokens)?;
        moment.write(&self.output)?;
        told(context, &self.output, &[(l.into(), moment.tokens)])
    }
}

impl Merge {
    fn run(&self, context: &Context) -> Result<()> {
        let read = self.folders.iter().filter_map(|dir| dir.canonicalize().ok());
        if self.output.canonicalize().is_ok_and(|out| read.into_iter().any(|dir| dir == out)) {
            let what = "would be written over what the command reads";
            return Err(Error::input(&self.output, "-o", what, "name another folder"));
        }
        let inputs = merge::inputs(&self.folders)?;
        let mut tokens = Vec::new();
        // Checked first and made again, for all of them at once may not fit in memory.
        for (&of, dirs) in &inputs {
            let moment = merge::merge(dirs, of)?;
            let n = moment.tokens;
            Moment::check_overwrite(&self.output, of, &moment.origin, None, n)?;
            tokens.push((of, moment.tokens));
        }
        for (&of, dirs) in &inputs {
            merge::merge(dirs, of)?.write(&self.output)?;
        }
        told(context, &self.output, &tokens)
    }
}

impl Gather {
    fn run(&self, context: &Context) -> Result<()> {
        let terminal = &context.terminal;
        let editor = Editor::open_on(&self.model, &context.device, terminal)?;
        context.warn_of(editor.model().tokenizer());
        let editor = editor.progress(terminal.clone());
        let what = Gathering {
            layers: self.layers.0.clone(),
            inputs: self.sites.clone(),
            max_tokens: self.max_tokens,
            context_length: self.context_length,
            share: self.shard,
            normed: self.normed,
        };
        let start = Instant::now();
        let done = editor.collect_statistics(&self.corpus, &what, &self.output)?;
        let seconds = start.elapsed().as_secs_f64();
        let sites: BTreeSet<Input> = done.inputs.iter().map(|of| of.input).collect();
        let shard = self.shard.map(|share| share.to_string());
        if context.json {
            return terminal.json(&json!({
                "output": self.output, "layers": self.layers.0,
                "sites": sites.iter().map(|site| site.name()).collect::<Vec<_>>(),
                "tokens": done.tokens, "seconds": seconds,
                "model": done.origin.model, "corpus": done.origin.corpus, "shard": shard,
                "normed": self.normed,
            }));
        }
        let shard = shard.map_or(String::new(), |share| format!("shard {share}, "));
        let keys = sites.iter().all(|site| *site == Input::Key);
        terminal.line(format!(
            "{}: {shard}{}, {} tokens in {seconds:.1} s ({}tokens/s)",
            self.output.display(),
            counted(done.inputs.len() as u64, if keys { "layer" } else { "site" }),
            count(done.tokens),
            metric(done.tokens as f64 / seconds),
        ))
    }
}

/// Says what was written, with its tokens.
fn told(context: &Context, output: &Path, inputs: &[(LayerInput, u64)]) -> Result<()> {
    if context.json {
        let layer = |(of, tokens): &(LayerInput, u64)| {
            let site = of.input.name();
            json!({"layer": of.layer, "site": site, "tokens": tokens})
        };
        let layers: Vec<_> = inputs.iter().map(layer).collect();
        return context.terminal.json(&json!({"output": output, "layers": layers}));
    }
    for (of, tokens) in inputs {
        let output = output.display();
        context.terminal.line(format!("{output}: {}, {} tokens", of.title(), count(*tokens)))?;
    }
    Ok(())
}
