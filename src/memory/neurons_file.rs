//! Added neurons as a safetensors file.
//!
//! ```text
//! gate      F32 (n, D)     where the MLP has a gate
//! up        F32 (n, D)
//! bias      F32 (n)        where up has a bias
//! down      F32 (n, D)     what each gives
//! metadata  kind "t-patcher" or "calinet", layer, act (relu, gelu, gelu_tanh or silu). The rest:
//!           `format.rs`
//! ```

use std::path::Path;

use safetensors::Dtype;

use super::format::{REMEDY, check_made_for, metadata, numbers};
use super::neurons::{AddedNeurons, NeuronKind};
use crate::base::{Error, Result};
use crate::model::lineage::WeightsName;
use crate::model::{LanguageModel, Matrix, MatrixId};
use crate::ops::act::Act;
use crate::store::Shard;
use crate::store::write::{self, Item};

/// Activations, with the names they have in files.
const ACTS: [(Act, &str); 4] =
    [(Act::Relu, "relu"), (Act::Gelu, "gelu"), (Act::GeluTanh, "gelu_tanh"), (Act::Silu, "silu")];

impl AddedNeurons {
    /// Writes them, whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let (n, d) = (self.len(), self.width);
        let act = ACTS.iter().find(|(act, _)| *act == self.act).expect("all are listed").1;
        let more = [("layer", self.layer.to_string()), ("act", act.to_owned())];
        let metadata = metadata(self.kind.name(), &self.made_for, &more);
        let all = [
            ("bias", self.bias.as_ref(), vec![n]),
            ("down", Some(&self.down), vec![n, d]),
            ("gate", self.gate.as_ref(), vec![n, d]),
            ("up", Some(&self.up), vec![n, d]),
        ];
        let there: Vec<(&str, &Vec<f32>, Vec<usize>)> = all
            .into_iter()
            .filter_map(|(name, values, shape)| Some((name, values?, shape)))
            .collect();
        let item = |(name, _, shape): &(&str, &Vec<f32>, Vec<usize>)| Item {
            name: (*name).to_owned(),
            dtype: Dtype::F32,
            shape: shape.clone(),
        };
        let items: Vec<Item> = there.iter().map(item).collect();
        write::write(path, &metadata, &items, &mut |i, out| {
            out.write_all(bytemuck::cast_slice(there[i].1))
        })
    }

    /// Reads neurons of a kind that were made for a model whose weights have that name.
    ///
    /// # Errors
    ///
    /// A file of another format or kind, or made for other weights; one that does not fit the model
    /// or itself.
    pub fn read(
        path: &Path,
        base: &dyn LanguageModel,
        kind: NeuronKind,
        name: &WeightsName,
    ) -> Result<AddedNeurons> {
        let shard = Shard::open(path)?;
        let header = shard.header();
        let bad = |field: &str, what: String| Error::input(path, field, what, REMEDY);
        check_made_for(path, &header.metadata, kind.name(), name)?;
        let text = |field: &str| header.metadata.get(field).map_or("", String::as_str);
        let layer: Option<usize> = text("layer").parse().ok();
        let sizes = layer.and_then(|l| base.matrix_sizes(MatrixId::new(l, Matrix::Up)));
        let (Some(layer), Some([d, _])) = (layer, sizes) else {
            return Err(bad("layer", format!("the model has no MLP in layer {}", text("layer"))));
        };
        let act = ACTS.iter().find(|(_, name)| *name == text("act"));
        let Some(&(act, _)) = act else {
            return Err(bad("act", format!("{} is not known", text("act"))));
        };
        let up = header.tensors.get("up").ok_or_else(|| bad("up", "is missing".to_owned()))?;
        let n = up.shape.first().copied().unwrap_or(0);
        let of = |name: &str, shape: &[usize]| numbers(path, &shard, name, shape);
        let has = |name: &str| header.tensors.contains_key(name);
        let gated = base.matrix_sizes(MatrixId::new(layer, Matrix::Gate)).is_some();
        if let Some(name) = header.tensors.keys().find(|name| match &name[..] {
            "up" | "down" => false,
            "gate" => !gated,
            "bias" => gated,
            _ => true,
        }) {
            return Err(bad(name, "is no tensor of such neurons".to_owned()));
        }
        Ok(AddedNeurons {
            made_for: name.clone(),
            kind,
            layer,
            width: d,
            act,
            gate: gated.then(|| of("gate", &[n, d])).transpose()?,
            up: of("up", &[n, d])?,
            bias: has("bias").then(|| of("bias", &[n])).transpose()?,
            down: of("down", &[n, d])?,
        })
    }
}
