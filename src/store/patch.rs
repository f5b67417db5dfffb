//! A patch: the change of a few matrices of one model, as a safetensors file.
//!
//! # The format
//!
//! An entry is a changed tensor, or changed rows of one. For each ENTRY, with W in (out, in)
//! orientation whatever the checkpoint stores:
//!
//! ```text
//! ENTRY.left   F32 (out, r)  ┐ the change left · rightᵀ,     or    ENTRY.delta  F32 (out, in)
//! ENTRY.right  F32 (in, r)   ┘ 1 ≤ r ≤ min(out, in)                the change itself
//!
//! ENTRY.keys   F32 (in, n)   perhaps: what W reads at the n facts, a column each
//! ```
//!
//! and nothing else. Rounding to few bits spares keys (`linalg/metric.rs`), and has to know them.
//! A patch has them where they do not follow from its factors; [`Change::keys_follow`] says when
//! they do. The file's metadata maps strings to strings; what has structure is JSON.
//!
//! | key | is |
//! | --- | --- |
//! | `format` | `incise patch 2`, or `3` where an entry has keys |
//! | `method` | `rome`, `memit`, … |
//! | `hyperparameters`, `contexts`, `notes` | JSON: what the method was given; free notes |
//! | `requests` | digest of the requests |
//! | `facts` | how many there were, in decimal |
//! | `model` | fingerprint of the model it was made on |
//! | `version` | of the program that made it |
//! | `tensors` | JSON: ENTRY → `module`, `fan_in_fan_out`, `fingerprint`, perhaps `rows` |
//!
//! Without `rows`, ENTRY is the name of the tensor in the checkpoint, and W is all of it. With
//! `rows`, which are `start`, `len`, `period` and `count` of [`RowBlocks`], ENTRY is `NAME:start`,
//! and W is those rows of the tensor NAME: queries, keys or values where one tensor holds all
//! three. A tensor may have several such entries, whose rows do not overlap.
//!
//! `module` is the framework's path of the module whose weight the tensor is. `fan_in_fan_out`
//! tells that the checkpoint stores the tensor as (in, out). `fingerprint` is the
//! [`tensor_fingerprint`](super::tensor_fingerprint) of the tensor's bytes, of all rows, before the
//! change.
//!
//! Format 1 has no `rows`. It is read, and no longer written: a patch of whole tensors differs from
//! one of format 1 in the number alone. Formats 1 and 2 have no keys, and a patch without any is
//! written as 2, which earlier versions read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::header::Entry;
use super::row_blocks::RowBlocks;
use super::shard::Shard;
use super::write::{self, Item};
use crate::base::{DType, Error, Remedy, Result};

const FORMATS: [&str; 3] = ["incise patch 1", "incise patch 2", "incise patch 3"];
const REMAKE: &str = "make the patch again";

/// The change of a few matrices of one model. Patches are equal wherever they were read from.
#[derive(Clone, Debug)]
pub struct Patch {
    /// One a matrix, sorted by tensor and row.
    pub changes: Vec<Change>,
    /// Where it comes from.
    pub metadata: Metadata,
    /// The file it was read from, which errors name.
    pub file: Option<PathBuf>,
}

impl PartialEq for Patch {
    fn eq(&self, other: &Patch) -> bool {
        (&self.changes, &self.metadata) == (&other.changes, &other.metadata)
    }
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
    /// The rows of the tensor that are W, unless all are.
    pub rows: Option<RowBlocks>,
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
    /// What W reads at the facts, where it does not follow from the factors.
    pub keys: Option<FactKeys>,
}

/// What a matrix (out, in) reads at some facts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FactKeys {
    /// (in, n), row-major.
    pub values: Vec<f32>,
    /// How many facts.
    pub n: usize,
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

impl Metadata {
    /// Which statistics of a layer the patch was planned with, where it says so: what follows from
    /// a C follows from that one alone.
    pub fn statistics_of(&self, layer: usize) -> Option<&str> {
        self.notes["statistics"].get(layer.to_string())?.as_str()
    }
}

/// The metadata of one tensor.
#[derive(Serialize, Deserialize)]
struct About {
    module: String,
    fan_in_fan_out: bool,
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<RowBlocks>,
}

/// The name of an entry in the file.
fn entry_name(tensor: &str, rows: Option<RowBlocks>) -> String {
    rows.map_or(tensor.to_owned(), |rows| format!("{tensor}:{}", rows.start))
}

impl Change {
    /// Its name in the file.
    pub fn entry(&self) -> String {
        entry_name(&self.tensor, self.rows)
    }

    /// What the changes of a patch are sorted by.
    pub fn order(&self) -> (&str, Option<RowBlocks>) {
        (&self.tensor, self.rows)
    }

    /// Sizes (out, in) of the tensor.
    pub fn tensor_sizes(&self) -> [usize; 2] {
        [self.rows.map_or(self.out, |rows| rows.tensor_rows()), self.inner]
    }

    /// What is added to the whole tensor.
    pub fn whole(&self) -> Cow<'_, Delta> {
        let Some(rows) = self.rows else { return Cow::Borrowed(&self.delta) };
        Cow::Owned(match &self.delta {
            Delta::LowRank { left, right, r } => {
                Delta::LowRank { left: rows.spread(left, *r), right: right.clone(), r: *r }
            }
            Delta::Dense(delta) => Delta::Dense(rows.spread(delta, self.inner)),
        })
    }

    /// What is wrong with it beside another change of the same tensor.
    fn clash(&self, other: &Change) -> Option<String> {
        let (Some(mine), Some(theirs)) = (self.rows, other.rows) else {
            return Some("is changed twice".to_owned());
        };
        let stored = |c: &Change| (c.tensor_sizes(), c.fan_in_fan_out, c.fingerprint.clone());
        if mine.overlap(theirs) {
            Some(format!("has rows that {} changes too", other.entry()))
        } else if stored(self) != stored(other) {
            Some(format!("is of another tensor than {}", other.entry()))
        } else {
            None
        }
    }

    /// Names, shapes and values of the tensors it is stored as.
    fn parts(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let name = self.entry();
        let mut parts: Vec<(String, Vec<usize>, &[f32])> = match &self.delta {
            Delta::LowRank { left, right, r } => vec![
                (format!("{name}.left"), vec![self.out, *r], left),
                (format!("{name}.right"), vec![self.inner, *r], right),
            ],
            Delta::Dense(delta) => {
                vec![(format!("{name}.delta"), vec![self.out, self.inner], delta)]
            }
        };
        if let Some(FactKeys { values, n }) = &self.keys {
            parts.push((format!("{name}.keys"), vec![self.inner, *n], values));
        }
        parts
    }

    /// Whether C times the right factor spans the keys of the facts: of a change by a closed form
    /// of C, solved without past keys and without a ridge, as the patch's notes say (`keys` is
    /// `factors`). Other changes by a closed form carry keys; patches of earlier versions say
    /// nothing of either.
    pub fn keys_follow(&self, of: &Metadata) -> bool {
        of.notes["keys"] == "factors" && matches!(self.delta, Delta::LowRank { .. })
    }

    /// What is wrong with it: the part, and what.
    fn check(&self) -> std::result::Result<(), (String, String)> {
        if let Some(rows) = self.rows {
            rows.check().map_err(|what| (self.entry(), what))?;
            if rows.rows() != self.out {
                let what = format!("{} rows are named, and {} changed", rows.rows(), self.out);
                return Err((self.entry(), what));
            }
        }
        if self.out == 0 || self.inner == 0 {
            return Err((self.entry(), format!("is {} by {}", self.out, self.inner)));
        }
        if let Delta::LowRank { r, .. } = self.delta
            && !(1..=self.out.min(self.inner)).contains(&r)
        {
            let what = format!("rank {r} is not in 1 ..= min({}, {})", self.out, self.inner);
            return Err((self.entry(), what));
        }
        if self.keys.as_ref().is_some_and(|keys| keys.n == 0) {
            return Err((format!("{}.keys", self.entry()), "are of no fact".to_owned()));
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
    /// A change whose sizes disagree or whose values are not finite, two changes of one row, what
    /// the system refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        write::write(path, &self.metadata(), &self.items(), &mut |i, out| self.fill(i, out))
    }

    /// The bytes of the file that [`write`](Patch::write) writes.
    ///
    /// # Errors
    ///
    /// As [`write`](Patch::write), but for the system's.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check(self.file.as_deref().unwrap_or(Path::new("patch")))?;
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("memory takes all bytes");
        Ok(bytes)
    }

    /// Writes the file's bytes.
    pub(crate) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        write::write_to(out, &self.metadata(), &self.items(), &mut |i, out| self.fill(i, out))
    }

    /// An error naming `path` unless the patch is valid.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        for (i, change) in self.changes.iter().enumerate() {
            change.check().map_err(|(part, what)| Error::input(path, part, what, REMAKE))?;
            let same = |c: &&Change| c.tensor == change.tensor || c.entry() == change.entry();
            let mut same = self.changes[..i].iter().filter(same);
            if let Some(what) = same.find_map(|other| change.clash(other)) {
                return Err(Error::input(path, change.entry(), what, "add the changes up"));
            }
        }
        if self.changes.is_empty() {
            return Err(Error::input(path, "tensors", "the patch changes nothing", REMAKE));
        }
        Ok(())
    }

    /// The names of the tensors it changes, in the order of its changes.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        let names = self.changes.iter().enumerate();
        let first = |(i, change): &(usize, &Change)| {
            self.changes[..*i].iter().all(|before| before.tensor != change.tensor)
        };
        names.filter(first).map(|(_, change)| &*change.tensor)
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
            rows: c.rows,
        };
        let tensors: BTreeMap<_, _> = self.changes.iter().map(|c| (c.entry(), about(c))).collect();
        let tensors = serde_json::to_string(&tensors).expect("strings and booleans");
        let keyed = self.changes.iter().any(|c| c.keys.is_some());
        let pairs = [
            ("format", FORMATS[if keyed { 2 } else { 1 }].to_owned()),
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
        if format.starts_with("incise memory ") {
            let what = "is an edit that lives beside the weights: there is no change of them in it";
            let remedy = Remedy::from("attach it where the model is run");
            let file = path.display().to_string();
            return Err(Error::input(path, "format", what, remedy.option("with", Some(&file))));
        }
        let Some(number) = FORMATS.iter().position(|known| *known == format) else {
            let remedy = match format.starts_with("incise patch ") {
                true => "read it with the version of incise that wrote it",
                false => "name a patch, which an edit writes",
            };
            let what = format!("is not {}", FORMATS.join(" or "));
            return Err(Error::input(path, "format", what, remedy));
        };
        let about: BTreeMap<String, About> = text.json("tensors")?;
        let mut left = shard.header().tensors.clone();
        let mut changes = Vec::new();
        for (entry, about) in about {
            let change = read_change(&shard, &mut left, entry, about)?;
            if number < 1 && change.rows.is_some() {
                let what = "names rows, as no patch of 1 does";
                return Err(Error::input(path, change.entry(), what, REMAKE));
            }
            if number < 2 && change.keys.is_some() {
                let what = "has keys, as no patch of 1 or 2 does";
                return Err(Error::input(path, change.entry(), what, REMAKE));
            }
            changes.push(change);
        }
        changes.sort_by(|a, b| a.order().cmp(&b.order()));
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
        let patch = Patch { changes, metadata, file: Some(path.to_owned()) };
        patch.check(path)?;
        Ok(patch)
    }
}

/// Takes the tensors of one change out of `left`.
fn read_change(
    shard: &std::sync::Arc<Shard>,
    left: &mut BTreeMap<String, Entry>,
    entry: String,
    about: About,
) -> Result<Change> {
    let About { module, fan_in_fan_out, fingerprint, rows } = about;
    let tensor = match rows {
        None => entry.clone(),
        Some(RowBlocks { start, .. }) => {
            let name = entry.strip_suffix(&format!(":{start}"));
            let unlike = || format!("is not named after its first row, {start}");
            name.ok_or_else(|| Error::input(shard.path(), &entry, unlike(), REMAKE))?.to_owned()
        }
    };
    let mut take = |part: &str| -> Result<Option<([usize; 2], Vec<f32>)>> {
        let name = format!("{entry}.{part}");
        let Some(found) = left.remove(&name) else { return Ok(None) };
        let wrong = |what: String| Error::input(shard.path(), &name, what, REMAKE);
        let (&[rows, cols], "F32") = (&found.shape[..], &found.dtype[..]) else {
            let Entry { dtype, shape, .. } = found;
            return Err(wrong(format!("is {dtype} {shape:?}, not F32 of two sizes")));
        };
        let mut values = vec![0.0; rows * cols];
        DType::F32.widen(&shard.bytes(&found.range), &mut values);
        Ok(Some(([rows, cols], values)))
    };
    let ([out, inner], delta) = match (take("left")?, take("right")?, take("delta")?) {
        (Some(([out, r], left)), Some(([inner, s], right)), None) if r == s => {
            ([out, inner], Delta::LowRank { left, right, r })
        }
        (None, None, Some((sizes, delta))) => (sizes, Delta::Dense(delta)),
        _ => {
            let what = "needs `.left` and `.right` of one rank, or `.delta` alone";
            return Err(Error::input(shard.path(), entry, what, REMAKE));
        }
    };
    let keys = match take("keys")? {
        Some(([rows, n], values)) if rows == inner => Some(FactKeys { values, n }),
        Some(([rows, _], _)) => {
            let what = format!("has keys of {rows} elements for a matrix that reads {inner}");
            return Err(Error::input(shard.path(), entry, what, REMAKE));
        }
        None => None,
    };
    Ok(Change { tensor, module, rows, out, inner, fan_in_fan_out, fingerprint, delta, keys })
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
