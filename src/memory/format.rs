//! What all memories' files have in common: safetensors whose metadata say what they are and which
//! weights they were made for.
//!
//! ```text
//! metadata  format "incise memory 1", kind, model (its fingerprint), weights (a name for them,
//!           edits included)
//! ```
//!
//! A file is read beside the weights it was made for alone: what a memory does depends on what the
//! layers compute, so any other change of the weights may undo an edit, or let it reach prompts
//! that it is not for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::base::{Error, Result};
use crate::model::lineage::WeightsName;
use crate::store::Shard;

/// Of every memory's file.
pub const FORMAT: &str = "incise memory 1";

/// What helps where a file does not fit the model.
pub(super) const REMEDY: &str = "name a memory that was made for this model, or make it again";
const EDITED: &str = "attach it to the model as it was when the memory was made, or make it again \
                      for the weights as they are";
const VERSION: &str = "read it with the version of incise that wrote it, or make it again";
const NO_MEMORY: &str = "name a memory, as an edit beside the weights writes it; a patch is \
                         applied instead";

/// Whether a file is a memory, of whatever kind and model.
pub fn is_memory(path: &Path) -> bool {
    let format = |s: Arc<Shard>| s.header().metadata.get("format").is_some_and(|f| f == FORMAT);
    Shard::open(path).is_ok_and(format)
}

/// Metadata of a kind, for weights of a name, with what else it says.
pub(super) fn metadata(
    kind: &str,
    made_for: &WeightsName,
    more: &[(&str, String)],
) -> BTreeMap<String, String> {
    let own = [
        ("format", FORMAT.to_owned()),
        ("kind", kind.to_owned()),
        ("model", made_for.model.clone()),
        ("weights", made_for.weights.clone()),
    ];
    own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

/// Refuses what is no memory of a kind of this version, or was made for other weights.
pub(super) fn check_made_for(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    kind: &str,
    name: &WeightsName,
) -> Result<()> {
    let is_memory = metadata.get("format").is_some_and(|f| f.starts_with("incise memory "));
    let format = if is_memory { VERSION } else { NO_MEMORY };
    let wanted = [
        ("format", FORMAT, format),
        ("kind", kind, VERSION),
        ("model", &name.model, REMEDY),
        ("weights", &name.weights, EDITED),
    ];
    for (field, want, remedy) in wanted {
        let what = match metadata.get(field) {
            Some(found) if found == want => continue,
            Some(_) if field == "weights" => {
                "are of the same model with other edits: it was made before one of them, or \
                 before one was undone"
                    .to_owned()
            }
            Some(found) => format!("is {found}, not {want}"),
            None => "is missing".to_owned(),
        };
        return Err(Error::input(path, field, what, remedy));
    }
    Ok(())
}

/// A tensor of f32, of a shape, all finite.
pub(super) fn numbers(path: &Path, shard: &Shard, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let bad = |what: String| Error::input(path, name, what, REMEDY);
    let entry = shard.header().tensors.get(name);
    let entry = entry.ok_or_else(|| bad("is missing".to_owned()))?;
    if entry.dtype != "F32" || entry.shape != shape {
        return Err(bad(format!("is {} {:?}, not F32 {shape:?}", entry.dtype, entry.shape)));
    }
    let number = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
    let numbers: Vec<f32> = shard.bytes(&entry.range).chunks_exact(4).map(number).collect();
    match numbers.iter().any(|x| !x.is_finite()) {
        true => Err(bad("holds a number that is not finite".to_owned())),
        false => Ok(numbers),
    }
}
