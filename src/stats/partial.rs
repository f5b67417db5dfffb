//! Statistics in progress: `partial.safetensors` beside the finished ones.
//!
//! Tensors `<layer>` F64, the packed triangle of totals; metadata `state` (JSON): what is being
//! collected, and how many windows and tokens of it were met and counted. Written to a sibling,
//! synced and renamed, so it is whole or absent; removed when the statistics are written.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::collect::Collect;
use super::file::Origin;
use crate::base::{Error, Result, Share};
use crate::ops::gram;
use crate::store::{Shard, write};

/// The file's name.
pub const NAME: &str = "partial.safetensors";

/// The elements' type: totals lose nothing between two runs.
const TYPE: &str = "F64";

/// How far a collection is.
pub struct State {
    /// Windows already met.
    pub windows: u64,
    /// Tokens already met.
    pub met: u64,
    /// Tokens already counted: of a shard not all that were met.
    pub tokens: u64,
    /// Packed Σ k kᵀ, one a layer.
    pub totals: Vec<Vec<f64>>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Header {
    layers: Vec<usize>,
    origin: Origin,
    shard: Option<String>,
    windows: u64,
    met: u64,
    tokens: u64,
}

fn header(what: &Collect, [windows, met, tokens]: [u64; 3]) -> Header {
    let (layers, origin) = (what.layers.clone(), what.origin.clone());
    let shard = what.share.as_ref().map(Share::to_string);
    Header { layers, origin, shard, windows, met, tokens }
}

/// The state kept in `dir` if it is of the same collection, or a fresh one. Makes the folder.
///
/// # Errors
///
/// A file of another collection, which is left alone, or one that cannot be read; a folder that
/// could not be written after the work.
pub fn open(dir: &Path, what: &Collect, f: usize) -> Result<State> {
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create", e))?;
    tempfile::tempfile_in(dir).map_err(|e| Error::io(dir, "write a file in", e))?;
    let path = dir.join(NAME);
    let n = gram::packed_len(f);
    if !path.exists() {
        let totals = vec![vec![0.0; n]; what.layers.len()];
        return Ok(State { windows: 0, met: 0, tokens: 0, totals });
    }
    let shard = Shard::open(&path).map_err(|e| match e {
        Error::Input { what, .. } => broken(&path, what),
        e => e,
    })?;
    let state = shard.header().metadata.get("state");
    let state = state.ok_or_else(|| broken(&path, "`state` is missing".into()))?;
    let found: Header = serde_json::from_str(state).map_err(|e| broken(&path, e.to_string()))?;
    let counts @ [windows, met, tokens] = [found.windows, found.met, found.tokens];
    if found != header(what, counts) {
        let what = "is of another model, corpus, shard or choice of layers";
        return Err(broken(&path, what.into()));
    }
    let total = |layer: &usize| match shard.header().tensors.get(&layer.to_string()) {
        Some(t) if t.dtype == TYPE && t.shape == [n] => {
            let bytes = shard.bytes(&t.range);
            Ok(bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
        }
        _ => Err(broken(&path, format!("layer {layer} is missing or of another size"))),
    };
    let totals = what.layers.iter().map(total).collect::<Result<_>>()?;
    Ok(State { windows, met, tokens, totals })
}

fn broken(path: &Path, what: String) -> Error {
    Error::input(path, "header", what, "remove it, or give another output folder")
}

/// Keeps the state in `dir`, with these totals.
///
/// # Errors
///
/// A folder that cannot be written.
pub fn save(dir: &Path, what: &Collect, state: &State, totals: &[Cow<[f64]>]) -> Result<()> {
    let header = header(what, [state.windows, state.met, state.tokens]);
    let header = serde_json::to_string(&header).expect("plain data");
    let item = |(layer, total): (&usize, &Cow<[f64]>)| write::Item {
        name: layer.to_string(),
        dtype: TYPE,
        shape: vec![total.len()],
    };
    let items: Vec<_> = what.layers.iter().zip(totals).map(item).collect();
    write::write(&dir.join(NAME), &[("state".to_owned(), header)].into(), &items, &mut |i, out| {
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
