//! `incise inspect FILE.gguf`: what a file of llama.cpp is.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::context::Context;
use crate::base::Result;
use crate::base::units::{count, counted, metric};
use crate::model::gguf::GgufModel;
use crate::store::gguf::GgufTensor;

/// Prints what is there. No weight is read.
pub(super) fn run(file: &Path, context: &Context) -> Result<()> {
    let model = GgufModel::open(file)?;
    let (a, tensors) = (model.arch(), &model.file().header().tensors);
    let mut types = BTreeMap::<&str, u64>::new();
    tensors.iter().for_each(|tensor| *types.entry(tensor.kind.name).or_default() += 1);
    let size = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let parameters: u64 = model.tensors().map(|(_, tensor)| size(&tensor.shape)).sum();
    let bytes: u64 = tensors.iter().map(|tensor| tensor.range.end - tensor.range.start).sum();
    let editable = model.editable();
    if context.json {
        let names: Vec<&str> = editable.iter().map(|tensor| &*tensor.name).collect();
        return context.terminal.json(&json!({
            "family": a.family, "parameters": parameters, "bytes": bytes, "types": types,
            "layers": a.layers, "width": a.width, "inner": a.inner, "heads": a.n_heads,
            "groups": a.n_kv_heads, "head": a.head_dim, "vocabulary": a.vocabulary,
            "context": a.max_positions, "tied": a.tie_embeddings, "editable": names,
            "config": model.config(),
        }));
    }
    let line = |what: &str, text: String| context.terminal.line(format!("{what:<12} {text}"));
    let (n, size) = (metric(parameters as f64), metric(bytes as f64));
    line("model", format!("{} layout in GGUF, {n}parameters, {size}B", a.family))?;
    let types = types.into_iter().map(|(name, n)| format!("{name} {}", counted(n, "tensor")));
    line("types", types.collect::<Vec<_>>().join(", "))?;
    line("layers", format!("{} of width {}, inner {}", a.layers, a.width, a.inner))?;
    let heads = format!("{} of width {}, {} key/value", a.n_heads, a.head_dim, a.n_kv_heads);
    line("heads", heads)?;
    let tied = if a.tie_embeddings { "tied" } else { "own" };
    line("vocabulary", format!("{}, {tied} head", count(a.vocabulary as u64)))?;
    line("context", format!("{} tokens", count(a.max_positions as u64)))?;
    let name = |tensor: Option<&&GgufTensor>| {
        tensor.map_or_else(String::new, |t| format!("{} {}", t.name, t.kind.name))
    };
    line("editable", format!("{} … {}", name(editable.first()), name(editable.last())))?;
    context.terminal.line("`incise import` makes a folder of it, which all commands take")
}
