//! A patch: the change of a few matrices of one model, as a safetensors file.
//!
//! # The format
//!
//! For each changed tensor NAME (its name in the checkpoint), with W in (out, in) orientation
//! whatever the checkpoint stores:
//!
//! ```text
//! NAME.left   F32 (out, r)  ┐ the change left · rightᵀ,     or    NAME.delta  F32 (out, in)
//! NAME.right  F32 (in, r)   ┘ 1 ≤ r ≤ min(out, in)                the change itself
//! ```
//!
//! and nothing else. The file's metadata maps strings to strings; what has structure is JSON.
//!
//! | key | is |
//! | --- | --- |
//! | `format` | `incise patch 1` |
//! | `method` | `rome`, `memit`, … |
//! | `hyperparameters`, `contexts`, `notes` | JSON: what the method was given; free notes |
//! | `requests` | digest of the requests |
//! | `facts` | how many there were, in decimal |
//! | `model` | fingerprint of the model it was made on |
//! | `version` | of the program that made it |
//! | `tensors` | JSON: NAME → `module` (the framework's path), `fan_in_fan_out`, `fingerprint` |
//!
//! `fan_in_fan_out` tells that the checkpoint stores W as (in, out). `fingerprint` is the
//! [`tensor_fingerprint`](super::tensor_fingerprint) of the bytes the change is to be added to.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::header::Entry;
use super::shard::Shard;
use super::write::{self, Item};
use crate::base::{DType, Error, Result};

const FORMAT: &str = "incise patch 1";
const REMAKE: &str = "make the patch again";

/// The change of a few matrices of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// One a tensor, sorted by its name.
    pub changes: Vec<Change>,
    /// Where it comes from.
    pub metadata: Metadata,
}

/// How a patch was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The method's name.
    pub method: String,
    /// What the method was given, by the field's names.
    pub hyperparameters: Value,
    /// The groups of prefixes the keys and values were averaged over.
    pub contexts: Value,
    /// Digest of the requests.
    pub requests: String,
    /// How many facts it changes.
    pub facts: u64,
    /// Fingerprint of the model it was made on.
    pub model: String,
    /// Version of the program that made it.
    pub version: String,
    /// Anything else.
    pub notes: Value,
}

/// The change of one matrix W (out, in).
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// The framework's path of the module whose weight it is.
    pub module: String,
    /// Rows of W.
    pub out: usize,
    /// Columns of W.
    pub inner: usize,
    /// Whether the checkpoint stores (in, out).
    pub fan_in_fan_out: bool,
    /// Of the tensor's bytes before the change.
    pub fingerprint: String,
    /// What is added.
    pub delta: Delta,
}

/// What is added to W (out, in).
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// left · rightᵀ.
    LowRank {
        /// (out, r), row-major.
        left: Vec<f32>,
        /// (in, r), row-major.
        right: Vec<f32>,
        /// The rank.
        r: usize,
    },
    /// (out, in), row-major.
    Dense(Vec<f32>),
}

/// The metadata of one tensor.
#[derive(Serialize, Deserialize)]
struct About {
    module: String,
    fan_in_fan_out: bool,
    fingerprint: String,
}

impl Change {
    /// Names, shapes and values of the tensors it is stored as.
    fn parts(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let name = &self.tensor;
        match &self.delta {
            Delta::LowRank { left, right, r } => vec![
                (format!("{name}.left"), vec![self.out, *r], left),
                (format!("{name}.right"), vec![self.inner, *r], right),
            ],
            Delta::Dense(delta) => {
                vec![(format!("{name}.delta"), vec![self.out, self.inner], delta)]
            }
        }
    }

    /// What is wrong with it: the part, and what.
    fn check(&self) -> std::result::Result<(), (String, String)> {
        if let Delta::LowRank { r, .. } = self.delta
            && !(1..=self.out.min(self.inner)).contains(&r)
        {
            let what = format!("rank {r} is not in 1 ..= min({}, {})", self.out, self.inner);
            return Err((self.tensor.clone(), what));
        }
        for (name, shape, values) in self.parts() {
            if shape.iter().try_fold(1, |n: usize, &s| n.checked_mul(s)) != Some(values.len()) {
                return Err((name, format!("{} values for the shape {shape:?}", values.len())));
            }
            if let Some(i) = values.iter().position(|x| !x.is_finite()) {
                return Err((name, format!("value {i} is {}", values[i])));
            }
        }
        Ok(())
    }
}

impl Patch {
    /// Writes the file.
    ///
    /// # Errors
    ///
    /// A change whose sizes disagree or whose values are not finite, two changes of one tensor,
    /// what the system refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        write::write(path, &self.metadata(), &self.items(), &mut |i, out| self.fill(i, out))
    }

    /// Writes the file's bytes.
    pub(crate) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        write::write_to(out, &self.metadata(), &self.items(), &mut |i, out| self.fill(i, out))
    }

    /// An error naming `path` unless the patch is valid.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        for (i, change) in self.changes.iter().enumerate() {
            change.check().map_err(|(part, what)| Error::input(path, part, what, REMAKE))?;
            if self.changes[..i].iter().any(|c| c.tensor == change.tensor) {
                let what = "is changed twice";
                return Err(Error::input(path, &change.tensor, what, "add the changes up"));
            }
        }
        if self.changes.is_empty() {
            return Err(Error::input(path, "tensors", "the patch changes nothing", REMAKE));
        }
        Ok(())
    }

    fn items(&self) -> Vec<Item> {
        let parts = self.changes.iter().flat_map(Change::parts);
        parts.map(|(name, shape, _)| Item { name, dtype: Dtype::F32, shape }).collect()
    }

    fn fill(&self, i: usize, out: &mut dyn Write) -> io::Result<()> {
        let mut parts = self.changes.iter().flat_map(Change::parts);
        let (_, _, values) = parts.nth(i).expect("an item of this patch");
        out.write_all(bytemuck::cast_slice(values))
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let m = &self.metadata;
        let about = |c: &Change| About {
            module: c.module.clone(),
            fan_in_fan_out: c.fan_in_fan_out,
            fingerprint: c.fingerprint.clone(),
        };
        let tensors: BTreeMap<_, _> = self.changes.iter().map(|c| (&c.tensor, about(c))).collect();
        let tensors = serde_json::to_string(&tensors).expect("strings and booleans");
        let pairs = [
            ("format", FORMAT.to_owned()),
            ("method", m.method.clone()),
            ("hyperparameters", m.hyperparameters.to_string()),
            ("contexts", m.contexts.to_string()),
            ("requests", m.requests.clone()),
            ("facts", m.facts.to_string()),
            ("model", m.model.clone()),
            ("version", m.version.clone()),
            ("notes", m.notes.to_string()),
            ("tensors", tensors),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// A file that is no patch, or departs from the format above; the tensor or key is named.
    pub fn read(path: &Path) -> Result<Patch> {
        let shard = Shard::open(path)?;
        let text = Text { path, metadata: &shard.header().metadata };
        let format = text.get("format")?;
        if format != FORMAT {
            let remedy = match format.starts_with("incise patch ") {
                true => "read it with the version of incise that wrote it",
                false => "name a patch, which an edit writes",
            };
            return Err(Error::input(path, "format", format!("is not {FORMAT}"), remedy));
        }
        let about: BTreeMap<String, About> = text.json("tensors")?;
        let mut left = shard.header().tensors.clone();
        let mut changes = Vec::new();
        for (tensor, about) in about {
            changes.push(read_change(&shard, &mut left, tensor, about)?);
        }
        if let Some(name) = left.keys().next() {
            return Err(Error::input(path, name, "belongs to no change", REMAKE));
        }
        let metadata = Metadata {
            method: text.get("method")?.to_owned(),
            hyperparameters: text.json("hyperparameters")?,
            contexts: text.json("contexts")?,
            requests: text.get("requests")?.to_owned(),
            facts: text.json("facts")?,
            model: text.get("model")?.to_owned(),
            version: text.get("version")?.to_owned(),
            notes: text.json("notes")?,
        };
        let patch = Patch { changes, metadata };
        patch.check(path)?;
        Ok(patch)
    }
}

/// Takes the tensors of one change out of `left`.
fn read_change(
    shard: &std::sync::Arc<Shard>,
    left: &mut BTreeMap<String, Entry>,
    tensor: String,
    about: About,
) -> Result<Change> {
    let mut take = |part: &str| -> Result<Option<([usize; 2], Vec<f32>)>> {
        let name = format!("{tensor}.{part}");
        let Some(entry) = left.remove(&name) else { return Ok(None) };
        let wrong = |what: String| Error::input(shard.path(), &name, what, REMAKE);
        let (&[rows, cols], "F32") = (&entry.shape[..], &entry.dtype[..]) else {
            let Entry { dtype, shape, .. } = entry;
            return Err(wrong(format!("is {dtype} {shape:?}, not F32 of two sizes")));
        };
        let mut values = vec![0.0; rows * cols];
        DType::F32.widen(&shard.bytes(&entry.range), &mut values);
        Ok(Some(([rows, cols], values)))
    };
    let ([out, inner], delta) = match (take("left")?, take("right")?, take("delta")?) {
        (Some(([out, r], left)), Some(([inner, s], right)), None) if r == s => {
            ([out, inner], Delta::LowRank { left, right, r })
        }
        (None, None, Some((sizes, delta))) => (sizes, Delta::Dense(delta)),
        _ => {
            let what = "needs `.left` and `.right` of one rank, or `.delta` alone";
            return Err(Error::input(shard.path(), tensor, what, REMAKE));
        }
    };
    let About { module, fan_in_fan_out, fingerprint } = about;
    Ok(Change { tensor, module, out, inner, fan_in_fan_out, fingerprint, delta })
}

struct Text<'a> {
    path: &'a Path,
    metadata: &'a BTreeMap<String, String>,
}

impl Text<'_> {
    fn get(&self, key: &str) -> Result<&str> {
        let missing = || Error::input(self.path, key, "is missing: the file is no patch", REMAKE);
        Ok(self.metadata.get(key).ok_or_else(missing)?)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        serde_json::from_str(self.get(key)?)
            .map_err(|e| Error::input(self.path, key, e.to_string(), REMAKE))
    }
}
