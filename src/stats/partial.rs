//! Statistics in progress: `partial.safetensors` beside the finished ones.
//!
//! Tensors `<layer>` F64, the packed triangle of totals; metadata `state` (JSON): what is being
//! collected, and how many windows and tokens of it are done. Written to a sibling and renamed,
//! so it is whole or absent; removed when the statistics are written.

use std::fs;
use std::io;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use super::collect::Collect;
use super::file::Origin;
use crate::base::{Error, Result};
use crate::ops::gram;

/// The file's name.
pub const NAME: &str = "partial.safetensors";

/// How far a collection is.
pub struct State {
    /// Windows already counted.
    pub windows: u64,
    /// Tokens already counted.
    pub tokens: u64,
    /// Packed Σ k kᵀ, one a layer.
    pub totals: Vec<Vec<f64>>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Header {
    layers: Vec<usize>,
    origin: Origin,
    windows: u64,
    tokens: u64,
}

fn header(what: &Collect, windows: u64, tokens: u64) -> Header {
    Header { layers: what.layers.clone(), origin: what.origin.clone(), windows, tokens }
}

/// The state kept in `dir` if it is of the same collection, or a fresh one.
///
/// # Errors
///
/// A file of another collection, which is left alone, or one that cannot be read.
pub fn open(dir: &Path, what: &Collect, f: usize) -> Result<State> {
    let path = dir.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let totals = vec![vec![0.0; gram::packed_len(f)]; what.layers.len()];
            return Ok(State { windows: 0, tokens: 0, totals });
        }
        Err(e) => return Err(Error::io(&path, "read", e)),
    };
    let remedy = "remove it, or give another output folder";
    let broken = |what: String| Error::input(&path, "header", what, remedy);
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| broken(e.to_string()))?;
    let state = metadata.metadata().as_ref().and_then(|m| m.get("state"));
    let state = state.ok_or_else(|| broken("`state` is missing".into()))?;
    let found: Header = serde_json::from_str(state).map_err(|e| broken(e.to_string()))?;
    let (windows, tokens) = (found.windows, found.tokens);
    if found != header(what, windows, tokens) {
        return Err(broken("is of another model, corpus or choice of layers".into()));
    }
    let file = SafeTensors::deserialize(&bytes).map_err(|e| broken(e.to_string()))?;
    let total = |layer: &usize| {
        let t = file.tensor(&layer.to_string()).map_err(|e| broken(e.to_string()))?;
        if t.dtype() != Dtype::F64 || t.shape() != [gram::packed_len(f)] {
            return Err(broken(format!("layer {layer} has another size")));
        }
        let (packets, _) = t.data().as_chunks::<8>();
        Ok(packets.iter().map(|b| f64::from_le_bytes(*b)).collect())
    };
    let totals = what.layers.iter().map(total).collect::<Result<_>>()?;
    Ok(State { windows, tokens, totals })
}

/// Keeps the state in `dir`.
///
/// # Errors
///
/// A folder that cannot be written.
pub fn save(dir: &Path, what: &Collect, state: &State) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create", e))?;
    let path = dir.join(NAME);
    let failed = |e: safetensors::SafeTensorError| {
        Error::io(&path, "write", io::Error::other(e.to_string()))
    };
    let view = |(layer, total): (&usize, &Vec<f64>)| {
        let bytes: Vec<u8> = total.iter().flat_map(|t| t.to_le_bytes()).collect();
        (layer.to_string(), bytes, vec![total.len()])
    };
    let tensors: Vec<_> = what.layers.iter().zip(&state.totals).map(view).collect();
    let views = tensors.iter().map(|(name, bytes, shape)| {
        TensorView::new(Dtype::F64, shape.clone(), bytes).map(|view| (name.clone(), view))
    });
    let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
    let header = header(what, state.windows, state.tokens);
    let header = serde_json::to_string(&header).expect("plain data");
    let metadata = [("state".to_owned(), header)].into();
    safetensors::serialize_to_file(views, Some(metadata), &path).map_err(failed)
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
