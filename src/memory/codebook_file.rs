//! A codebook as a safetensors file.
//!
//! ```text
//! keys      F32 (n, F)     what the matrix read
//! values    F32 (n, D)     what it gives in the place of that
//! radii     F32 (n)        how far from its key each is chosen
//! metadata  kind "grace", matrix (as layers.5.down), replacement (replace_last, replace_prompt or
//!           replace_all), labels (a JSON list of n lists of token ids). The rest: `format.rs`
//! ```

use std::path::Path;

use safetensors::Dtype;
use serde_json::json;

use super::codebook::{Codebook, CodebookEntry, Replacement};
use super::format::{REMEDY, check_made_for, metadata, numbers};
use crate::base::{Error, Result};
use crate::model::lineage::WeightsName;
use crate::model::{LanguageModel, MatrixId};
use crate::store::Shard;
use crate::store::write::{self, Item};

/// Of a codebook's.
pub const KIND: &str = "grace";

impl Codebook {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let labels: Vec<&[u32]> = self.entries.iter().map(|e| &e.label[..]).collect();
        let more = [
            ("matrix", self.id.to_string()),
            ("replacement", self.replacement.name().to_owned()),
            ("labels", json!(labels).to_string()),
        ];
        let metadata = metadata(KIND, &self.made_for, &more);
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
        check_made_for(path, metadata, KIND, name)?;
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
        let numbers = |name: &str, shape: &[usize]| numbers(path, &shard, name, shape);
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
