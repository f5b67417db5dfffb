//! What a sequential method carries from one edit to the next, as a file.
//!
//! ```text
//! NAME.<l>    F64 (columns, rows)   tensors of the method, by name and layer, column by column:
//!               gram.<l>  (F, F) or (q, q)  Σ KKᵀ of all keys so far; AlphaEdit's in U₀'s
//!                                           coordinates
//!               fact_keys.<l>, fact_values.<l>   (n, F), (n, D): of each fact, with replace_facts
//!               normaliser.<s>  (2, in + out)    of UltraEdit, by shape
//!               basis.<l> (q, F)            U₀ᵀ of AlphaEdit, from statistics of the first model
//! metadata    format, method, model; settings that must stay the same; requests (a digest of each
//!             that was learnt); before (a fingerprint of the edited matrices for each patch, from
//!             before it); anything else is the method's, as JSON: anchor (c of the norm anchor)
//! ```
//!
//! The tensors and the rest of the metadata are the method's own; it checks them when a state is
//! read ([`Method::check_state`](super::method::Method::check_state)).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use faer::Mat;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::base::{Error, Result};
use crate::store::header::Entry;
use crate::store::write::{self, Item};
use crate::store::{Fingerprint, Shard};

const FORMAT: &str = "incise state 1";
/// Metadata that is not the method's.
const OURS: [&str; 6] = ["format", "method", "model", "settings", "requests", "before"];

/// A remedy for a state that does not fit.
const REMEDY: &str = "name the state of this model and method, or begin a new one";

/// The state of a method on a model.
#[derive(Clone, Default)]
pub struct State {
    /// The method's tensors: by name, then by layer.
    pub tensors: BTreeMap<String, LayerTensors>,
    /// What else the method carries.
    pub notes: Map<String, Value>,
    /// A digest of each request that was learnt.
    pub requests: Vec<String>,
    /// What must stay the same from run to run, as the method says it.
    pub settings: String,
    /// Fingerprints of the edited matrices before each patch: a model that has them again, or
    /// still, lacks a patch.
    pub before: Vec<String>,
}

/// One tensor a layer.
pub type LayerTensors = BTreeMap<usize, Arc<Mat<f64>>>;

impl State {
    /// Reads a state that `method` left for the model of that fingerprint.
    ///
    /// # Errors
    ///
    /// A file of another kind, method or model; tensors that are not finite matrices.
    pub fn read(path: &Path, method: &str, model: &str) -> Result<State> {
        let shard = Shard::open(path)?;
        let header = shard.header();
        let bad = |field: &str, what: String| misfit(path, field, what);
        for (field, want) in [("format", FORMAT), ("method", method), ("model", model)] {
            match header.metadata.get(field) {
                Some(found) if found == want => {}
                found => {
                    let found = found.map_or("missing", String::as_str);
                    return Err(bad(field, format!("is {found}, not {want}")));
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
            state.tensors.entry(kind.to_owned()).or_default().insert(layer, Arc::new(m));
        }
        let text = |key: &str| header.metadata.get(key);
        for (key, value) in header.metadata.iter().filter(|(key, _)| !OURS.contains(&key.as_str()))
        {
            let value = serde_json::from_str(value).map_err(|e| bad(key, format!("{e}")))?;
            state.notes.insert(key.clone(), value);
        }
        let requests = text("requests").map_or("[]", String::as_str);
        state.settings = text("settings").cloned().unwrap_or_default();
        state.requests = serde_json::from_str(requests)
            .map_err(|e| bad("requests", format!("is not a list of digests: {e}")))?;
        state.before = serde_json::from_str(text("before").map_or("[]", String::as_str))
            .map_err(|e| bad("before", format!("is not a list of fingerprints: {e}")))?;
        Ok(state)
    }

    /// Whether a file is a state, of whatever method and model.
    pub fn is_state(path: &Path) -> bool {
        let format = |s: Arc<Shard>| s.header().metadata.get("format").is_some_and(|f| f == FORMAT);
        Shard::open(path).is_ok_and(format)
    }

    /// The tensors of a name, by layer.
    pub fn layers(&self, name: &str) -> LayerTensors {
        self.tensors.get(name).cloned().unwrap_or_default()
    }

    /// Takes the tensors of a name out of the state.
    pub fn take(&mut self, name: &str) -> LayerTensors {
        self.tensors.remove(name).unwrap_or_default()
    }

    /// Puts tensors in the place of those of a name.
    pub fn put(&mut self, name: &str, layers: LayerTensors) {
        self.tensors.remove(name);
        if !layers.is_empty() {
            self.tensors.insert(name.to_owned(), layers);
        }
    }

    /// A name for all of it.
    pub fn digest(&self) -> String {
        let mut all = Fingerprint::default();
        for (name, layers) in &self.tensors {
            all.field(name.as_bytes());
            for (layer, m) in layers {
                all.field(&(*layer as u64).to_le_bytes());
                let mut add = |x: &f64| all.add(&x.to_le_bytes());
                m.col_iter().for_each(|c| c.iter().for_each(&mut add));
            }
        }
        all.field(Value::Object(self.notes.clone()).to_string().as_bytes());
        all.field(json!(self.requests).to_string().as_bytes());
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
            ("requests".to_owned(), json!(self.requests).to_string()),
            ("settings".to_owned(), self.settings.clone()),
            ("before".to_owned(), json!(self.before).to_string()),
        ]);
        metadata.extend(self.notes.iter().map(|(key, value)| (key.clone(), value.to_string())));
        let tensors: Vec<(String, &Mat<f64>)> = self
            .tensors
            .iter()
            .flat_map(|(name, layers)| {
                layers.iter().map(move |(layer, m)| (format!("{name}.{layer}"), &**m))
            })
            .collect();
        // Column by column, so a file's row is a column of ours; a Gram is symmetric, and of it
        // only the lower triangle counts.
        let item = |(name, m): &(String, &Mat<f64>)| Item {
            name: name.clone(),
            dtype: Dtype::F64,
            shape: vec![m.ncols(), m.nrows()],
        };
        let items: Vec<Item> = tensors.iter().map(item).collect();
        write::write(path, &metadata, &items, &mut |i, out| {
            tensors[i].1.col_iter().try_for_each(|c| {
                let column: Vec<f64> = c.iter().copied().collect();
                out.write_all(bytemuck::cast_slice(&column))
            })
        })
    }
}

/// A state whose `field` does not fit.
pub fn misfit(path: &Path, field: &str, what: String) -> Error {
    Error::input(path, field, what, REMEDY)
}

fn matrix(shard: &Arc<Shard>, entry: &Entry) -> Option<Mat<f64>> {
    let (&[columns, rows], "F64") = (&entry.shape[..], &entry.dtype[..]) else { return None };
    let bytes = shard.bytes(&entry.range);
    let at = |i: usize| f64::from_le_bytes(bytes[8 * i..][..8].try_into().expect("8 bytes"));
    Some(Mat::from_fn(rows, columns, |i, j| at(j * rows + i)))
}
