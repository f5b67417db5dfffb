//! A codebook as a safetensors file.
//!
//! ```text
//! keys      F32 (n, F)     what the matrix read
//! values    F32 (n, D)     what it gives in the place of that
//! radii     F32 (n)        how far from its key each is chosen
//! metadata  format "incise memory 1", kind "grace", model (its fingerprint), matrix (as
//!           layers.5.down), replacement (replace_last, replace_prompt or replace_all), labels (a
//!           JSON list of n lists of token ids)
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;
use serde_json::json;

use super::codebook::{Codebook, CodebookEntry, Replacement, sizes};
use crate::base::{Error, Result};
use crate::model::{Arch, MatrixId};
use crate::store::Shard;
use crate::store::write::{self, Item};

/// Of every memory's file.
pub const FORMAT: &str = "incise memory 1";
/// Of a codebook's.
pub const KIND: &str = "grace";

const REMEDY: &str = "name a memory that was made for this model, or make it again";

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
                ("model", self.model.clone()),
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

    /// Reads a codebook of the model of that fingerprint.
    ///
    /// # Errors
    ///
    /// A file of another format, kind or model; one that does not fit the model or itself.
    pub fn read(path: &Path, arch: &Arch, model: &str) -> Result<Codebook> {
        let shard = Shard::open(path)?;
        let metadata = &shard.header().metadata;
        let bad = |field: &str, what: String| Error::input(path, field, what, REMEDY);
        let text =
            |field: &str| metadata.get(field).ok_or_else(|| bad(field, "is missing".to_owned()));
        for (field, want) in [("format", FORMAT), ("kind", KIND), ("model", model)] {
            match text(field)? {
                found if found == want => {}
                found => return Err(bad(field, format!("is {found}, not {want}"))),
            }
        }
        let id: MatrixId = text("matrix")?.parse().map_err(|e| bad("matrix", e))?;
        let plain = MatrixId::new(id.layer, id.matrix);
        if id != plain || id.layer >= arch.layers {
            return Err(bad("matrix", format!("{id} is no matrix of the model")));
        }
        let name = text("replacement")?;
        let replacement = Replacement::named(name)
            .ok_or_else(|| bad("replacement", format!("{name} is not known")))?;
        let labels: Vec<Vec<u32>> = serde_json::from_str(text("labels")?)
            .map_err(|e| bad("labels", format!("is no list of lists of token ids: {e}")))?;
        let outside = |id: &&u32| **id as usize >= arch.vocabulary;
        if let Some(id) = labels.iter().flatten().find(outside) {
            return Err(bad("labels", format!("token {id} is not in the model's vocabulary")));
        }
        let ([f, d], n) = (sizes(arch, id.matrix), labels.len());
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
        if let Some(radius) = radii.iter().find(|r| **r < 0.0) {
            return Err(bad("radii", format!("{radius} is below 0")));
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
        Ok(Codebook { id, sizes: [f, d], replacement, model: model.to_owned(), entries })
    }
}
