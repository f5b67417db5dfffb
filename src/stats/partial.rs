//! Statistics in progress: `partial.safetensors` beside the finished ones.
//!
//! Tensors `<layer>` F64 or, of another input than the keys, `<layer>.<input>`: the packed triangle
//! of totals; metadata `state` (JSON): what is being collected, and how many windows and tokens of
//! it were read and counted. Written to a sibling, synced and renamed, so it is whole or absent;
//! removed when the statistics are written.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::input::{Input, LayerInput};
use super::origin::{Collect, Origin};
use crate::base::file::make_folder;
use crate::base::{Error, Result, Share};
use crate::ops::gram;
use crate::store::{Shard, write};

/// The file's name.
pub const NAME: &str = "partial.safetensors";

/// The elements' type: totals lose nothing between two runs.
const TYPE: Dtype = Dtype::F64;

/// How far a collection is.
pub struct PartialSums {
    /// Windows already read.
    pub windows: u64,
    /// Tokens already read.
    pub tokens_read: u64,
    /// Tokens already counted: of a shard not all that were read.
    pub tokens: u64,
    /// Packed Σ k kᵀ, one an input.
    pub totals: Vec<Vec<f64>>,
}

/// The metadata `state`.
#[derive(Serialize, Deserialize, PartialEq)]
struct Description {
    layers: Vec<usize>, // of each input
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>, // the inputs, unless all are keys
    origin: Origin,
    shard: Option<String>,
    windows: u64,
    #[serde(rename = "met")] // the name in the format
    tokens_read: u64,
    tokens: u64,
}

impl Description {
    fn of(what: &Collect, sums: &PartialSums) -> Description {
        let is_key = |of: &LayerInput| of.input == Input::Key;
        let names = what.inputs.iter().map(|of| of.input.name().to_owned());
        Description {
            layers: what.inputs.iter().map(|of| of.layer).collect(),
            inputs: if what.inputs.iter().all(is_key) { Vec::new() } else { names.collect() },
            origin: what.origin.clone(),
            shard: what.share.as_ref().map(Share::to_string),
            windows: sums.windows,
            tokens_read: sums.tokens_read,
            tokens: sums.tokens,
        }
    }
}

/// The sums kept in `dir` if they are of the same collection, or fresh ones, of inputs of these
/// `widths`. Makes the folder.
///
/// # Errors
///
/// A file of another collection, which is left alone, or one that cannot be read; a folder that
/// could not be written after the work.
pub fn open(dir: &Path, what: &Collect, widths: &[usize]) -> Result<PartialSums> {
    make_folder(dir)?;
    tempfile::tempfile_in(dir).map_err(|e| Error::io(dir, "write a file in", e))?;
    let path = dir.join(NAME);
    if !path.exists() {
        let totals = widths.iter().map(|&f| vec![0.0; gram::packed_len(f)]).collect();
        return Ok(PartialSums { windows: 0, tokens_read: 0, tokens: 0, totals });
    }
    let shard = Shard::open(&path).map_err(|e| match e {
        Error::Input { what, .. } => broken(&path, what),
        e => e,
    })?;
    let state = shard.header().metadata.get("state");
    let state = state.ok_or_else(|| broken(&path, "`state` is missing".into()))?;
    let found: Description =
        serde_json::from_str(state).map_err(|e| broken(&path, e.to_string()))?;
    let mut sums = PartialSums {
        windows: found.windows,
        tokens_read: found.tokens_read,
        tokens: found.tokens,
        totals: Vec::new(),
    };
    if found != Description::of(what, &sums) {
        let what = "is of another model, corpus, shard or choice of layers";
        return Err(broken(&path, what.into()));
    }
    for (of, &f) in what.inputs.iter().zip(widths) {
        let n = gram::packed_len(f);
        let tensor = shard.header().tensors.get(&of.name());
        let tensor = tensor.filter(|t| t.dtype == TYPE.to_string() && t.shape == [n]);
        let missing = || broken(&path, format!("{} is missing or of another size", of.title()));
        let bytes = shard.bytes(&tensor.ok_or_else(missing)?.range);
        let total = bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
        sums.totals.push(total.collect());
    }
    Ok(sums)
}

fn broken(path: &Path, what: String) -> Error {
    Error::input(path, "header", what, "remove it, or give another output folder")
}

/// Keeps the sums in `dir`, with these totals.
///
/// # Errors
///
/// A folder that cannot be written.
pub fn save(dir: &Path, what: &Collect, sums: &PartialSums, totals: &[Cow<[f64]>]) -> Result<()> {
    let state = serde_json::to_string(&Description::of(what, sums)).expect("plain data");
    let item = |(of, total): (&LayerInput, &Cow<[f64]>)| write::Item {
        name: of.name(),
        dtype: TYPE,
        shape: vec![total.len()],
    };
    let items: Vec<_> = what.inputs.iter().zip(totals).map(item).collect();
    write::write(&dir.join(NAME), &[("state".to_owned(), state)].into(), &items, &mut |i, out| {
        out.write_all(bytemuck::cast_slice(&totals[i]))
    })
}

/// Removes what was kept.
///
/// # Errors
///
/// A folder that cannot be written.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_file(dir.join(NAME)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(dir.join(NAME), "remove", e))
        }
        _ => Ok(()),
    }
}
