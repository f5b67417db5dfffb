//! An adapter as llama.cpp reads it: a GGUF file, without its converter.
//!
//! ```text
//! "GGUF", version 3 (u32), tensors (u64), pairs (u64)
//! each pair      key, type (u32), value          text: length (u64), bytes
//! each tensor    name, dimensions (u32), sizes from the inner one (u64 each), F32 = 0 (u32),
//!                where its data begins, from the start of all data (u64)
//! zeros up to a multiple of 32, then the data, each tensor at a multiple of 32
//! ```
//!
//! The pairs say that the file is a LoRA adapter, for which architecture, and α. A matrix has the
//! name of the tensor it is added to, with `.lora_a` (r, in) and `.lora_b` (out, r) behind it;
//! llama.cpp takes r from the sizes and multiplies by α/r, which is 1 here.
//!
//! Where llama.cpp keeps a matrix's rows in another order (`model/gguf/tensors.rs`), those of B
//! have that order too.
//!
//! Source: llama.cpp's `gguf.md`, and `llama-adapter.cpp`, which is the reader.

use std::path::Path;

use super::adapter::Adapter;
use crate::base::{Error, Remedy, Result};
use crate::model::families::{self, Described};
use crate::model::gguf::{LayerMatrix, Rows, matrices_in_llamacpp};
use crate::store::gguf::{GgufFile, MetadataValue};
use crate::store::{Checkpoint, write};

const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT: usize = 32;

/// The types of values in pairs.
const FLOAT32: u32 = 6;
const TEXT: u32 = 8;

/// Writes an adapter for the checkpoint it was made for.
///
/// # Errors
///
/// A family that llama.cpp does not have; a module that its file stores in another way.
pub fn write(adapter: &Adapter, checkpoint: &Path, file: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(checkpoint)?;
    let path = checkpoint.dir().join("config.json");
    let Described { family, arch, .. } = families::describe(checkpoint.config(), &path)?;
    let Some((architecture, matrices)) = matrices_in_llamacpp(family, &arch) else {
        let what = format!("which architecture of llama.cpp {} is, is not known", family.name);
        return Err(Error::refused(what, in_another_form()));
    };
    let mut tensors = Vec::new();
    for module in &adapter.modules {
        let found = matrices.iter().find(|of| of.here == module.module).ok_or_else(|| {
            let what = format!("llama.cpp stores {} in another way", module.module);
            Error::refused(what, in_another_form())
        })?;
        let LayerMatrix { there, rows, .. } = found;
        let (a, r) = (module.a.clone(), adapter.rank);
        let b = in_their_order(&module.b, r, *rows);
        tensors.push((format!("{there}.weight.lora_a"), [module.inner, r], a));
        tensors.push((format!("{there}.weight.lora_b"), [r, module.out], b));
    }
    write::whole(file, &encode(architecture, adapter.rank as f32, &tensors))
}

/// Whether a file is such an adapter.
pub fn is_adapter(file: &Path) -> bool {
    let kind = |file: GgufFile| file.header().metadata.get("general.type").cloned();
    let kind = GgufFile::open(file).ok().and_then(kind);
    kind == Some(MetadataValue::Text("adapter".to_owned()))
}

fn in_another_form() -> Remedy {
    Remedy::from("write the adapter as a folder, or apply the patch and convert the whole model")
}

/// B (out, r) with its rows where the file has them.
fn in_their_order(b: &[f32], r: usize, rows: Rows) -> Vec<f32> {
    let mut turned = vec![0.0; b.len()];
    for (row, values) in b.chunks_exact(r).enumerate() {
        turned[rows.source(row) * r..][..r].copy_from_slice(values);
    }
    turned
}

/// A tensor's name, its sizes from the inner one, and its values.
type Tensor = (String, [usize; 2], Vec<f32>);

/// The bytes of the file.
fn encode(architecture: &str, alpha: f32, tensors: &[Tensor]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let pairs = [
        ("general.architecture", architecture),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
    ];
    out.extend(MAGIC);
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64 + 1).to_le_bytes());
    for (key, value) in pairs {
        text(&mut out, key);
        out.extend(TEXT.to_le_bytes());
        text(&mut out, value);
    }
    text(&mut out, "adapter.lora.alpha");
    out.extend(FLOAT32.to_le_bytes());
    out.extend(alpha.to_le_bytes());
    let mut begin = 0;
    for (name, sizes, values) in tensors {
        text(&mut out, name);
        out.extend(2u32.to_le_bytes());
        sizes.iter().for_each(|&size| out.extend((size as u64).to_le_bytes()));
        out.extend(0u32.to_le_bytes()); // F32
        out.extend((begin as u64).to_le_bytes());
        begin = (begin + 4 * values.len()).next_multiple_of(ALIGNMENT);
    }
    for (.., values) in tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend_from_slice(bytemuck::cast_slice(values));
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}
