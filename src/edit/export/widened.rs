//! Added neurons as a checkpoint: every MLP with n rows and columns more.
//!
//! ```text
//! layer l      up ← [up; up⁺]   gate ← [gate; gate⁺]   b ← [b; b⁺]   down ← [down, down⁺]
//! the others   the same with zeros: a neuron that reads and gives nothing
//! config       the inner width F ← F + n
//! ```
//!
//! A configuration has one inner width, so all layers are widened; a zero row gives act(0)·0 = 0,
//! to the bit, and a zero column adds nothing. What the neurons are is rounded to the stored type.
//! Any program that loads the family loads it: n·3·D numbers a layer, or 2 without a gate.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as NameError;
use serde_json::json;

use crate::base::{DType, Error, Progress, Result, Stage};
use crate::memory::neurons::AddedNeurons;
use crate::model::families::FAMILIES;
use crate::model::{Linear, Matrix, MatrixId, Model};
use crate::store::write::{self, Item};
use crate::store::{Checkpoint, folder};

/// The one file of the weights.
const WHOLE: &str = "model.safetensors";
/// Where a multimodal model's configuration has its text model's.
const INNER: &str = "text_config";

/// What is added to a tensor.
struct Widening {
    /// Rows (n, D) that are added, or columns, one after the other; nothing is n·D zeros.
    values: Option<Vec<f32>>,
    n: usize,
    /// Whether the tensor is widened along its first axis.
    rows: bool,
}

/// Writes the widened checkpoint into a new folder.
///
/// # Errors
///
/// A layout whose matrices share a tensor, or whose configuration names no inner width; a folder
/// that is there; what the system refuses; cancellation.
pub fn write(
    checkpoint: &Checkpoint,
    model: &Model,
    neurons: &AddedNeurons,
    out: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let (field, inner) = (inner_field(model)?, model.arch.inner + neurons.len());
    let widenings = widenings(checkpoint, model, neurons)?;
    folder::build(out, |dir| {
        folder::copy(checkpoint.dir(), dir, progress)?;
        let remove = |path: std::path::PathBuf| {
            fs::remove_file(&path).map_err(|e| Error::io(&path, "remove", e))
        };
        for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, "read", e))? {
            let path = entry.map_err(|e| Error::io(dir, "read", e))?.path();
            if path.file_name().is_some_and(|name| holds_weights(&name.to_string_lossy())) {
                remove(path)?;
            }
        }
        let mut config = checkpoint.config().clone();
        match config.get_mut(INNER).filter(|own| own.get(field).is_some()) {
            Some(own) => own[field] = json!(inner),
            None => config[field] = json!(inner),
        }
        let text = format!("{config:#}\n");
        write::whole(&dir.join("config.json"), text.as_bytes())?;
        write_weights(checkpoint, &widenings, &dir.join(WHOLE), progress)
    })
}

/// Whether a file has the model's weights or lists files of them, in whatever format: what is not
/// widened would not fit the configuration, and some programs read it before safetensors.
fn holds_weights(name: &str) -> bool {
    let formats =
        [".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".gguf", ".npz"];
    let name = name.strip_suffix(".index.json").unwrap_or(name);
    formats.iter().any(|format| name.ends_with(format))
}

/// The field of the configuration that says F.
fn inner_field(model: &Model) -> Result<&'static str> {
    let family = FAMILIES.iter().find(|family| family.name == model.arch.family);
    family.and_then(|family| family.inner_field()).ok_or_else(|| {
        let what = format!("{} has no inner width in its configuration", model.arch.family);
        Error::refused(what, "attach the neurons where the model is run")
    })
}

/// What is added to each tensor of the MLPs.
fn widenings(
    checkpoint: &Checkpoint,
    model: &Model,
    neurons: &AddedNeurons,
) -> Result<BTreeMap<String, Widening>> {
    let n = neurons.len();
    let mut all = BTreeMap::new();
    for layer in 0..model.arch.layers {
        let own = layer == neurons.layer;
        for (matrix, values) in [
            (Matrix::Gate, neurons.gate.as_ref()),
            (Matrix::Up, Some(&neurons.up)),
            (Matrix::Down, Some(&neurons.down)),
        ] {
            let id = MatrixId::new(layer, matrix);
            if !model.layers[layer].matrices().any(|(own, _)| own == matrix) {
                continue;
            }
            let Linear { b, stored, .. } = model.matrix(id);
            if stored.rows.is_some() {
                let what = format!("{id} shares the tensor {} with another", stored.tensor);
                return Err(Error::refused(what, "attach the neurons where the model is run"));
            }
            let rows = (matrix == Matrix::Down) == stored.fan_in_fan_out;
            let values = values.filter(|_| own).cloned();
            all.insert(stored.tensor.clone(), Widening { values, n, rows });
            if let (Some(_), true) = (b, matrix != Matrix::Down) {
                let name = stored.tensor.replace(".weight", ".bias");
                checkpoint.entry(&name).ok_or_else(|| {
                    let what = format!("the bias of {id} is not where it was looked for, {name}");
                    Error::refused(what, "attach the neurons where the model is run")
                })?;
                let values = neurons.bias.as_ref().filter(|_| own && matrix == Matrix::Up).cloned();
                all.insert(name, Widening { values, n, rows: true });
            }
        }
    }
    Ok(all)
}

fn write_weights(
    checkpoint: &Checkpoint,
    widenings: &BTreeMap<String, Widening>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let mut items = Vec::new();
    for (name, shard, entry) in checkpoint.entries() {
        let deserializer = entry.dtype.as_str().into_deserializer();
        let dtype = Dtype::deserialize(deserializer).map_err(|e: NameError| {
            Error::input(shard.path(), name, e.to_string(), "fetch the model's files again")
        })?;
        let mut shape = entry.shape.clone();
        if let Some(widening) = widenings.get(name) {
            let axis = if widening.rows { 0 } else { shape.len() - 1 };
            shape[axis] += widening.n;
            crate::store::checkpoint::float(shard, name, entry)?;
        }
        items.push(Item { name: name.to_owned(), dtype, shape });
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let total = items.len() as u64;
    let mut cancelled = false;
    let written = write::write(path, &metadata, &items, &mut |i, out| {
        progress.at(Stage::WriteWeights, i as u64, total);
        if progress.cancelled() {
            cancelled = true;
            return Err(std::io::Error::other("cancelled"));
        }
        let (shard, entry) = checkpoint.entry(&items[i].name).expect("is listed");
        let bytes = shard.bytes(&entry.range);
        match widenings.get(&items[i].name) {
            None => out.write_all(&bytes),
            Some(widening) => {
                let dtype = DType::parse(&entry.dtype).expect("was checked");
                out.write_all(&widening.widened(&bytes, dtype, &entry.shape))
            }
        }
    });
    match cancelled {
        true => Err(Error::Interrupted { kept: "nothing was written".to_owned() }),
        false => written,
    }
}

impl Widening {
    /// The tensor's bytes with what is added.
    fn widened(&self, bytes: &[u8], dtype: DType, shape: &[usize]) -> Vec<u8> {
        let size = dtype.size();
        // Of rows all is added behind the last; of columns, n numbers behind each row.
        let row = if self.rows { bytes.len() } else { size * shape[shape.len() - 1] };
        let count = bytes.len() / row.max(1);
        let width = if self.rows && shape.len() > 1 { shape[1] } else { 1 };
        let added = if self.rows { self.n * width } else { self.n };
        let value = |r: usize, i: usize| match &self.values {
            None => 0.0,
            Some(values) if self.rows => f64::from(values[i]),
            Some(values) => f64::from(values[i * count + r]), // of neuron i, row r
        };
        let mut all = Vec::with_capacity(bytes.len() + count * added * size);
        for (r, own) in bytes.chunks(row).enumerate() {
            all.extend_from_slice(own);
            let numbers: Vec<f64> = (0..added).map(|i| value(r, i)).collect();
            dtype.narrow(&numbers, &mut all);
        }
        all
    }
}
