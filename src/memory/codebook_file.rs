//! A codebook as a safetensors file.
//!
//! ```text
//! keys      F32 (n, F)     what the matrix read
//! values    F32 (n, D)     what it gives in the place of that
//! radii     F32 (n)        how far from its key each is chosen
//! metadata  format "incise memory 1", kind "grace", model (its fingerprint), weights (a name for
//!           them, edits included), matrix (as layers.5.down), replacement (replace_last,
//!           replace_prompt or replace_all), labels (a JSON list of n lists of token ids)
//! ```
//!
//! A file is read beside the weights it was made for alone: keys and values are of what the layers
//! below and above compute, so any other change of the weights may undo an edit, or let a key be
//! near to prompts that it is not for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;
use serde_json::json;

use super::codebook::{Codebook, CodebookEntry, Replacement};
use crate::base::{Error, Result};
use crate::model::lineage::WeightsName;
use crate::model::{LanguageModel, MatrixId};
use crate::store::Shard;
use crate::store::write::{self, Item};

/// Of every memory's file.
pub const FORMAT: &str = "incise memory 1";
/// Of a codebook's.
pub const KIND: &str = "grace";

const REMEDY: &str = "name a memory that was made for this model, or make it again";
const EDITED: &str = "attach it to the model as it was when the memory was made, or make it again \
                      for the weights as they are";
const VERSION: &str = "read it with the version of incise that wrote it, or make it again";
const NO_MEMORY: &str = "name a memory, as an edit by grace writes it; a patch is applied instead";

/// Whether a file is a memory, of whatever kind and model.
pub fn is_memory(path: &Path) -> bool {
    let format = |s: Arc<Shard>| s.header().metadata.get("format").is_some_and(|f| f == FORMAT);
    Shard::open(path).is_ok_and(format)
}

impl Codebook {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let labels: Vec<&[u32]> = self.entries.iter().map(|e| &e.label[..]).collect();
        let metadata = BTreeMap::from(
            [
                ("format", FORMAT.to_owned()),
                ("kind", KIND.to_owned()),
                ("model", self.made_for.model.clone()),
                ("weights", self.made_for.weights.clone()),
                ("matrix", self.id.to_string()),
                ("replacement", self.replacement.name().to_owned()),
                ("labels", json!(labels).to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let ([f, d], n) = (self.sizes, self.entries.len());
        let shapes = [("keys", vec![n, f]), ("values", vec![n, d]), ("radii", vec![n])];
        let item = |(name, shape): (&str, Vec<usize>)| Item {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape,
        };
        let items = shapes.map(item);
        write::write(path, &metadata, &items, &mut |i, out| {
            self.entries.iter().try_for_each(|e| {
                let numbers = [&e.key[..], &e.value, std::slice::from_ref(&e.radius)][i];
                out.write_all(bytemuck::cast_slice(numbers))
            })
        })
    }

    /// Reads a codebook that was made for a model whose weights have that name.
    ///
    /// # Errors
    ///
    /// A file of another format or kind, or made for other weights; one that does not fit the model
    /// or itself.
    pub fn read(path: &Path, base: &dyn LanguageModel, name: &WeightsName) -> Result<Codebook> {
        let shard = Shard::open(path)?;
        let metadata = &shard.header().metadata;
        let bad = |field: &str, what: String| Error::input(path, field, what, REMEDY);
        let text =
            |field: &str| metadata.get(field).ok_or_else(|| bad(field, "is missing".to_owned()));
        check_made_for(path, metadata, name)?;
        let id: MatrixId = text("matrix")?.parse().map_err(|e| bad("matrix", e))?;
        // Sites tell no two matrices of one kind in a layer apart.
        let sizes = base.matrix_sizes(id).filter(|_| id == MatrixId::new(id.layer, id.matrix));
        let Some([f, d]) = sizes else {
            return Err(bad("matrix", format!("the model has no {id}")));
        };
        let which = text("replacement")?;
        let replacement = Replacement::named(which)
            .ok_or_else(|| bad("replacement", format!("{which} is not known")))?;
        let labels: Vec<Vec<u32>> = serde_json::from_str(text("labels")?)
            .map_err(|e| bad("labels", format!("is no list of lists of token ids: {e}")))?;
        let outside = |id: &&u32| **id as usize >= base.arch().vocabulary;
        if let Some(id) = labels.iter().flatten().find(outside) {
            return Err(bad("labels", format!("token {id} is not in the model's vocabulary")));
        }
        let n = labels.len();
        let numbers = |name: &str, shape: &[usize]| {
            let entry = shard.header().tensors.get(name);
            let entry = entry.ok_or_else(|| bad(name, "is missing".to_owned()))?;
            if entry.dtype != "F32" || entry.shape != shape {
                let what = format!("is {} {:?}, not F32 {shape:?}", entry.dtype, entry.shape);
                return Err(bad(name, what));
            }
            let bytes = shard.bytes(&entry.range);
            let number = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
            let numbers: Vec<f32> = bytes.chunks_exact(4).map(number).collect();
            match numbers.iter().any(|x| !x.is_finite()) {
                true => Err(bad(name, "holds a number that is not finite".to_owned())),
                false => Ok(numbers),
            }
        };
        let (keys, values) = (numbers("keys", &[n, f])?, numbers("values", &[n, d])?);
        let radii = numbers("radii", &[n])?;
        if let Some(radius) = radii.iter().find(|r| !is_radius(**r)) {
            return Err(bad("radii", format!("{radius} is below 0, or its square is no number")));
        }
        let known = ["keys", "values", "radii"];
        if let Some(name) = shard.header().tensors.keys().find(|n| !known.contains(&n.as_str())) {
            return Err(bad(name, "is no tensor of a codebook".to_owned()));
        }
        let entry = |(i, label)| CodebookEntry {
            key: keys[i * f..][..f].to_vec(),
            value: values[i * d..][..d].to_vec(),
            radius: radii[i],
            label,
        };
        let entries = labels.into_iter().enumerate().map(entry).collect();
        Ok(Codebook { id, sizes: [f, d], replacement, made_for: name.clone(), entries })
    }
}

/// Whether a lookup, which compares squares in f32, can tell what is inside such a radius.
fn is_radius(radius: f32) -> bool {
    radius >= 0.0 && (radius * radius).is_finite()
}

/// Refuses what is no codebook of this version, or was made for other weights.
fn check_made_for(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    name: &WeightsName,
) -> Result<()> {
    let is_memory = metadata.get("format").is_some_and(|f| f.starts_with("incise memory "));
    let format = if is_memory { VERSION } else { NO_MEMORY };
    let wanted = [
        ("format", FORMAT, format),
        ("kind", KIND, VERSION),
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
