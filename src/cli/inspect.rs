//! `incise inspect MODEL`: what a checkpoint is, and what was done to it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::inspect_gguf;
use crate::base::units::{count, counted, metric, percent};
use crate::base::{Error, Quiet, Result};
use crate::edit::governor::CarriedEdits;
use crate::edit::{apply, methods};
use crate::model::arch::NormPlace;
use crate::model::lineage::lineage;
use crate::model::{MatrixId, load};
use crate::stats::Moment;
use crate::store::gguf::is_gguf;
use crate::tensor::Device;

/// What to inspect.
#[derive(Args)]
pub struct Inspect {
    /// Folder of the checkpoint, or a GGUF file
    model: PathBuf,
    /// Folder of statistics to look for
    #[arg(long)]
    stats: Option<PathBuf>,
}

impl Inspect {
    /// Prints what is there.
    pub fn run(&self, context: &Context) -> Result<()> {
        if is_gguf(&self.model) {
            return inspect_gguf::run(&self.model, context);
        }
        let (checkpoint, model) = load::open(&self.model, &Device::Cpu, &Quiet)?;
        let a = &model.arch;
        let parameters: u64 =
            checkpoint.entries().map(|(_, _, e)| e.shape.iter().product::<usize>() as u64).sum();
        let bytes: u64 = checkpoint.entries().map(|(_, _, e)| e.range.end - e.range.start).sum();
        let mut types: Vec<&str> = checkpoint.entries().map(|(_, _, e)| &*e.dtype).collect();
        types.sort_unstable();
        types.dedup();
        let lineage = lineage(&checkpoint, &context.terminal)?;
        let (carried, name) = (CarriedEdits::of(&lineage), lineage.base);
        let with_stats: Vec<(usize, u64)> = match &self.stats {
            None => vec![],
            Some(dir) if !dir.is_dir() => {
                let remedy = "collect statistics with `incise stats`";
                return Err(Error::input(dir, "--stats", "is no folder", remedy));
            }
            Some(dir) => (0..a.layers)
                .filter(|&l| Moment::path(dir, l).is_file())
                .map(|l| Moment::read(dir, l, a.inner, &name).map(|m| (l, m.tokens)))
                .collect::<Result<_>>()?,
        };
        let edits = apply::log(&self.model)?;
        let behind = a.norms == NormPlace::Behind;
        let tensor = |l| &*model.matrix(MatrixId::down(l)).stored.tensor;
        let editable: Vec<&str> = (0..a.layers).map(tensor).collect();
        let methods: Vec<&str> = methods::that_edit(a).map(|method| method.about().name).collect();
        if context.json {
            return context.terminal.json(&json!({
                "family": a.family, "parameters": parameters, "bytes": bytes, "types": types,
                "layers": a.layers, "width": a.width, "inner": a.inner, "heads": a.n_heads,
                "groups": a.n_kv_heads, "head": a.head_dim, "vocabulary": a.vocabulary,
                "context": a.max_positions, "tied": a.tie_embeddings, "fingerprint": name,
                "editable": editable, "methods": methods, "norm_behind_mlp": behind,
                "statistics": with_stats, "edits": edits.len(), "carried": carried,
            }));
        }
        let line = |what: &str, text: String| context.terminal.line(format!("{what:<12} {text}"));
        let (n, size) = (metric(parameters as f64), metric(bytes as f64));
        line("model", format!("{} layout, {n}parameters, {}, {size}B", a.family, types.join(" ")))?;
        line("layers", format!("{} of width {}, inner {}", a.layers, a.width, a.inner))?;
        let heads = format!("{} of width {}, {} key/value", a.n_heads, a.head_dim, a.n_kv_heads);
        line("heads", heads)?;
        let tied = if a.tie_embeddings { "tied" } else { "own" };
        line("vocabulary", format!("{}, {tied} head", count(a.vocabulary as u64)))?;
        line("context", format!("{} tokens", count(a.max_positions as u64)))?;
        line("fingerprint", name)?;
        line("editable", format!("{} … {}", editable[0], editable[a.layers - 1]))?;
        line("methods", methods.join(", "))?;
        if behind {
            let what = "a norm stands behind the MLP: one layer, or emmet with spread=values";
            line("", what.to_owned())?;
        }
        for (l, tokens) in with_stats {
            line("statistics", format!("layer {l}, {} tokens", count(tokens)))?;
        }
        line("edits", format!("{} applied in place", edits.len()))?;
        if carried.patches == 0 {
            return Ok(());
        }
        for text in words(&carried) {
            line("carries", text)?;
        }
        Ok(())
    }
}

/// What a model carries: facts, how far each matrix was moved, and the verdict.
fn words(carried: &CarriedEdits) -> Vec<String> {
    let mut lines = vec![carried.numbers()];
    for (name, norms) in carried.tensors.iter().filter(|(_, norms)| norms.weight > 0.0) {
        lines.push(format!("{name}  ‖ΣΔ‖/‖W‖ {}", percent(norms.change / norms.weight)));
    }
    if carried.without_norms > 0 {
        let patches = counted(carried.without_norms as u64, "patch");
        lines.push(format!("{patches} by earlier versions, whose norms are not known by matrix"));
    }
    lines.push(match carried.strain {
        None => "no verdict: nothing is known of how much a method bears".to_owned(),
        Some(strain) => strain.name().to_owned(),
    });
    lines.extend(carried.reached.iter().map(|row| format!("  {}", row.source)));
    lines
}
