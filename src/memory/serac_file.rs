//! SERAC's memory as a safetensors file.
//!
//! ```text
//! tokens, spaced, and the metadata lengths and begin: as `context_file.rs` has them, a fact's
//!                 context its prompt and target
//! keys            F32 (n, 64)
//! scope           F32 (64, D)
//! layers.5.down   F32 (out, in), a matrix of the counterfactual model; and so on
//! metadata        kind "serac". The rest: `format.rs`
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use super::context::ContextMemory;
use super::format::{REMEDY, check_made_for, metadata, numbers};
use super::serac::{SCOPE_WIDTH, SeracMemory};
use crate::base::{Error, Result};
use crate::model::lineage::WeightsName;
use crate::model::{LanguageModel, MatrixId};
use crate::store::Shard;
use crate::store::write::{self, Item};

/// Of such a file.
pub const KIND: &str = "serac";

impl SeracMemory {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let metadata = metadata(KIND, &self.made_for, &self.facts.labels());
        let item = |name: &str, shape: [usize; 2]| Item {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
        };
        let tokens = self.facts.tokens();
        let mut items = self.facts.items().to_vec();
        items.push(item("keys", [self.facts.entries.len(), SCOPE_WIDTH]));
        items.push(item("scope", [SCOPE_WIDTH, self.scope.len() / SCOPE_WIDTH]));
        let mut numbers = vec![&self.keys[..], &self.scope];
        for (id, (sizes, values)) in &self.matrices {
            items.push(item(&id.to_string(), *sizes));
            numbers.push(values);
        }
        write::write(path, &metadata, &items, &mut |i, out| match i {
            0 => out.write_all(bytemuck::cast_slice(&tokens)),
            1 => out.write_all(bytemuck::cast_slice(self.facts.pairs())),
            i => out.write_all(bytemuck::cast_slice(numbers[i - 2])),
        })
    }

    /// Reads a memory that was made for a model whose weights have that name.
    ///
    /// # Errors
    ///
    /// A file of another format or kind, or made for other weights; one that does not fit the model
    /// or itself.
    pub fn read(path: &Path, base: &dyn LanguageModel, name: &WeightsName) -> Result<SeracMemory> {
        let shard = Shard::open(path)?;
        check_made_for(path, &shard.header().metadata, KIND, name)?;
        let facts = ContextMemory::read_part(path, &shard, base)?;
        let bad = |field: &str, what: &str| Err(Error::input(path, field, what, REMEDY));
        if facts.entries.iter().any(|fact| fact.prompt.is_empty()) {
            return bad("lengths", "name a prompt without tokens");
        }
        let numbers = |name: &str, shape: [usize; 2]| numbers(path, &shard, name, &shape);
        let keys = numbers("keys", [facts.entries.len(), SCOPE_WIDTH])?;
        let scope = numbers("scope", [SCOPE_WIDTH, base.arch().width])?;
        let mut matrices = BTreeMap::new();
        let own = ["tokens", "spaced", "keys", "scope"];
        let names = shard.header().tensors.keys();
        for name in names.filter(|name| !own.contains(&name.as_str())) {
            let id: Option<MatrixId> = name.parse().ok();
            let sizes = id.and_then(|id| base.matrix_sizes(id));
            let (Some(id), Some([inner, out])) = (id, sizes) else {
                return bad(name, "is no matrix of the model");
            };
            matrices.insert(id, ([out, inner], numbers(name, [out, inner])?));
        }
        Ok(SeracMemory { made_for: name.clone(), facts, keys, scope, matrices })
    }
}
