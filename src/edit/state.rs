//! What a sequential method carries from one edit to the next, as a file.
//!
//! ```text
//! gram.<l>    F64 (F, F) or (q, q)   Σ KKᵀ of all keys so far, for AlphaEdit in U₀'s coordinates
//! basis.<l>   F64 (q, F)             U₀ᵀ of AlphaEdit, from the statistics of the first model
//! metadata    format, method, model; settings that must stay the same; anchor (c); requests (a
//!             digest of each that was learnt); before (a fingerprint of the edited matrices for
//!             each patch, from before it)
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use safetensors::tensor::Dtype;

use super::alphaedit::Bases;
use super::memit::Grams;
use crate::base::{Error, Result};
use crate::store::header::Entry;
use crate::store::write::{self, Item};
use crate::store::{Fingerprint, Shard};

const FORMAT: &str = "incise state 1";

/// The state of a method on a model.
#[derive(Clone, Default)]
pub struct State {
    /// Of keys learnt so far.
    pub grams: Grams,
    /// AlphaEdit's.
    pub bases: Bases,
    /// c of the norm anchor.
    pub anchor: Option<f64>,
    /// A digest of each request that was learnt.
    pub requests: Vec<String>,
    /// What must stay the same from run to run: layers, and AlphaEdit's threshold.
    pub settings: String,
    /// Fingerprints of the edited matrices before each patch: a model that has them again, or
    /// still, lacks a patch.
    pub before: Vec<String>,
}

impl State {
    /// Reads a state that `method` left for the model of that fingerprint.
    ///
    /// # Errors
    ///
    /// A file of another kind, method or model, or with sizes that do not fit.
    pub fn read(path: &Path, method: &str, model: &str, f: usize) -> Result<State> {
        let shard = Shard::open(path)?;
        let header = shard.header();
        let bad = |field: &str, what: String| {
            let remedy = "name the state of this model and method, or begin a new one";
            Error::input(path, field, what, remedy)
        };
        for (field, want) in [("format", FORMAT), ("method", method), ("model", model)] {
            match header.metadata.get(field) {
                Some(said) if said == want => {}
                said => {
                    let said = said.map_or("missing", String::as_str);
                    return Err(bad(field, format!("is {said}, not {want}")));
                }
            }
        }
        let mut state = State::default();
        for (name, entry) in &header.tensors {
            let Some((kind, layer)) = name.split_once('.') else {
                return Err(bad(name, "is no tensor of a state".into()));
            };
            let layer = layer.parse().map_err(|_| bad(name, "names no layer".into()))?;
            let m = matrix(&shard, entry).ok_or_else(|| {
                bad(name, format!("is {} {:?}, not F64 of two sizes", entry.dtype, entry.shape))
            })?;
            if m.col_iter().any(|c| c.iter().any(|x| !x.is_finite())) {
                return Err(bad(name, "holds a number that is not finite".into()));
            }
            match kind {
                "gram" if m.nrows() == m.ncols() => state.grams.insert(layer, m).map(|_| ()),
                "basis" if m.nrows() == f => state.bases.insert(layer, Arc::new(m)).map(|_| ()),
                _ => return Err(bad(name, format!("has the shape {:?}", entry.shape))),
            };
        }
        for (layer, gram) in &state.grams {
            let want = state.bases.get(layer).map_or(f, |basis| basis.ncols());
            if gram.nrows() != want {
                let what = format!("is of {} keys' width, not {want}", gram.nrows());
                return Err(bad(&format!("gram.{layer}"), what));
            }
        }
        let text = |key: &str| header.metadata.get(key);
        state.anchor = match text("anchor").map(|c| c.parse::<f64>()) {
            None => None,
            Some(Ok(c)) if c.is_finite() && c > 0.0 => Some(c),
            Some(_) => return Err(bad("anchor", "is not a length".into())),
        };
        let requests = text("requests").map_or("[]", String::as_str);
        state.settings = text("settings").cloned().unwrap_or_default();
        state.requests = serde_json::from_str(requests)
            .map_err(|e| bad("requests", format!("is not a list of digests: {e}")))?;
        state.before = serde_json::from_str(text("before").map_or("[]", String::as_str))
            .map_err(|e| bad("before", format!("is not a list of fingerprints: {e}")))?;
        Ok(state)
    }

    /// Whether a file is a state, of whatever method and model.
    pub fn is_one(path: &Path) -> bool {
        let format = |s: Arc<Shard>| s.header().metadata.get("format").is_some_and(|f| f == FORMAT);
        Shard::open(path).is_ok_and(format)
    }

    /// A name for all of it.
    pub fn name(&self) -> String {
        let mut all = Fingerprint::default();
        let matrices = self.grams.values().chain(self.bases.values().map(|basis| &**basis));
        for column in matrices.flat_map(|m| m.col_iter()) {
            column.iter().for_each(|x| all.add(&x.to_le_bytes()));
        }
        all.add(format!("{:?} {:?}", self.anchor, self.requests).as_bytes());
        all.hex()
    }

    /// Writes the state, whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, path: &Path, method: &str, model: &str) -> Result<()> {
        let mut metadata = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("method".to_owned(), method.to_owned()),
            ("model".to_owned(), model.to_owned()),
            ("requests".to_owned(), serde_json::json!(self.requests).to_string()),
            ("settings".to_owned(), self.settings.clone()),
            ("before".to_owned(), serde_json::json!(self.before).to_string()),
        ]);
        if let Some(c) = self.anchor {
            metadata.insert("anchor".to_owned(), format!("{c:e}"));
        }
        let parts = || {
            let grams = self.grams.iter().map(|(l, m)| (format!("gram.{l}"), m));
            grams.chain(self.bases.iter().map(|(l, m)| (format!("basis.{l}"), &**m)))
        };
        // Column by column, so a file's row is a column of ours; a Gram is symmetric, and of it
        // only the lower triangle counts.
        let item = |(name, m): (String, &Mat<f64>)| Item {
            name,
            dtype: Dtype::F64,
            shape: vec![m.ncols(), m.nrows()],
        };
        let items: Vec<Item> = parts().map(item).collect();
        write::write(path, &metadata, &items, &mut |i, out| {
            let (_, m) = parts().nth(i).expect("an item of this state");
            m.col_iter().try_for_each(|c| {
                let column: Vec<f64> = c.iter().copied().collect();
                out.write_all(bytemuck::cast_slice(&column))
            })
        })
    }
}

fn matrix(shard: &std::sync::Arc<Shard>, entry: &Entry) -> Option<Mat<f64>> {
    let (&[columns, rows], "F64") = (&entry.shape[..], &entry.dtype[..]) else { return None };
    let bytes = shard.bytes(&entry.range);
    let at = |i: usize| f64::from_le_bytes(bytes[8 * i..][..8].try_into().expect("8 bytes"));
    Some(Mat::from_fn(rows, columns, |i, j| at(j * rows + i)))
}
