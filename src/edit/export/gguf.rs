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
//! llama.cpp turns queries and keys by adjacent pairs where its architecture is `llama`: its
//! converter reorders their rows, head by head, so the rows of B are reordered in the same way:
//!
//! ```text
//! row 2i + s of a head, there  =  row sE/2 + i, here        s ∈ {0, 1}, 0 ≤ i < E/2
//! ```
//!
//! Source: llama.cpp's `gguf.md`, and `llama-adapter.cpp`, which is the reader.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::adapter::{Adapter, Module};
use crate::base::{Error, Remedy, Result};
use crate::model::arch::Arch;
use crate::model::families::{self, Described};
use crate::model::family::{Family, Qkv, UpNames};
use crate::store::{Checkpoint, write};

/// The families that llama.cpp has, by its name for the architecture.
const ARCHITECTURES: [(&str, &str); 7] = [
    ("gpt2", "gpt2"),
    ("gpt_neox", "gptneox"),
    ("llama", "llama"),
    ("mistral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("olmo2", "olmo2"),
];

const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT: usize = 32;

/// Bytes in which the pairs of an adapter are.
const HEAD: u64 = 1024;

/// The types of values in pairs.
const FLOAT32: u32 = 6;
const TEXT: u32 = 8;

/// Which rows of a module llama.cpp keeps elsewhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heads {
    AsTheyAre,
    /// So many heads with adjacent pairs.
    Adjacent(usize),
}

/// Writes an adapter for the checkpoint it was made for.
///
/// # Errors
///
/// A family that llama.cpp does not have; a module that its file stores in another way.
pub fn write(adapter: &Adapter, checkpoint: &Path, file: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(checkpoint)?;
    let path = checkpoint.dir().join("config.json");
    let Described { family, arch, .. } = families::describe(checkpoint.config(), &path)?;
    let Some((_, architecture)) = ARCHITECTURES.iter().find(|(name, _)| *name == family.name)
    else {
        let what = format!("llama.cpp has no architecture for {}", family.name);
        return Err(Error::refused(what, in_another_form()));
    };
    let mut tensors = Vec::new();
    for module in &adapter.modules {
        let (name, heads) = place(family, &arch, architecture, module)?;
        let b = match heads {
            Heads::AsTheyAre => module.b.clone(),
            Heads::Adjacent(heads) => adjacent(&module.b, module.out, adapter.rank, heads),
        };
        let (a, r) = (module.a.clone(), adapter.rank);
        tensors.push((format!("{name}.lora_a"), [module.inner, r], a));
        tensors.push((format!("{name}.lora_b"), [r, module.out], b));
    }
    write::whole(file, &encode(architecture, adapter.rank as f32, &tensors))
}

/// Whether a file is such an adapter.
pub fn is_adapter(file: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(file).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    let key = b"adapter.type";
    read.is_ok() && head.starts_with(MAGIC) && head.windows(key.len()).any(|word| word == key)
}

fn in_another_form() -> Remedy {
    Remedy::from("write the adapter as a folder, or apply the patch and convert the whole model")
}

/// The name of a module's tensor in llama.cpp's files, and how its rows lie there.
fn place(
    family: &Family,
    arch: &Arch,
    architecture: &str,
    module: &Module,
) -> Result<(String, Heads)> {
    let names = &family.names;
    let inside = module.module.strip_prefix(names.prefix).unwrap_or(&module.module);
    let inside = inside.strip_prefix(names.layer).and_then(|rest| rest.split_once('.'));
    let wrong = || {
        let what = format!("llama.cpp stores {} in another way", module.module);
        Error::refused(what, in_another_form())
    };
    let (layer, inside) = inside.ok_or_else(wrong)?;
    let turned = |heads| match architecture {
        "llama" => Heads::Adjacent(heads),
        _ => Heads::AsTheyAre,
    };
    let plain = [(names.down, "ffn_down"), (names.o, "attn_output")];
    let plain = plain.into_iter().chain(match names.up {
        UpNames::Up(up) => vec![(up, "ffn_up")],
        UpNames::Gated([gate, up]) => vec![(gate, "ffn_gate"), (up, "ffn_up")],
        UpNames::Stacked(both) => vec![(both, "ffn_up")],
    });
    let plain = plain.into_iter().find(|(name, _)| *name == inside);
    let (name, heads) = match (plain, &names.qkv) {
        (Some((_, name)), _) => (name, Heads::AsTheyAre),
        (None, Qkv::Three([q, ..])) if inside == *q => ("attn_q", turned(arch.n_heads)),
        (None, Qkv::Three([_, k, _])) if inside == *k => ("attn_k", turned(arch.n_kv_heads)),
        (None, Qkv::Three([.., v])) if inside == *v => ("attn_v", Heads::AsTheyAre),
        (None, Qkv::Stacked(all)) if inside == *all => ("attn_qkv", Heads::AsTheyAre),
        _ => return Err(wrong()),
    };
    Ok((format!("blk.{layer}.{name}.weight"), heads))
}

/// B (out, r) with the rows of each head in the order of adjacent pairs.
fn adjacent(b: &[f32], out: usize, r: usize, heads: usize) -> Vec<f32> {
    let (width, mut rows) = (out / heads, Vec::with_capacity(b.len()));
    for row in 0..out {
        let (head, inside) = (row / width, row % width);
        let from = head * width + inside % 2 * (width / 2) + inside / 2;
        rows.extend_from_slice(&b[from * r..][..r]);
    }
    rows
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
