//! Versions of a checkpoint as differences of bytes, in the layout by which trainers hand weights
//! to fleets of servers ("disk delta": slime, miles and SGLang's `/pull_weights`).
//!
//! ```text
//! DIR/weight_v000001/model-00000-of-00001.safetensors   NAME: U8, zstd of the difference; metadata
//!                                                       NAME → xxh3-128 of the new bytes, in hex
//!                    model.safetensors.index.json       version, base_version, encoding, …
//!
//! xor         new ⊕ old, byte by byte: to be applied once
//! overwrite   n as u32, the n positions of bytes that differ as u32, their new values
//! ```
//!
//! Only tensors that differ are in it. Version N is a difference from version N − 1, and version 0
//! is the checkpoint that the servers were started with; so what takes an edit back is one more
//! version. A receiver applies versions in order, holds each tensor to its checksum, and reads its
//! checkpoint again. The difference knows no element type: it serves quantised files as well.
//!
//! Source: slime's `sglang-pull_weights.patch` at c124211, which is the receiver.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::base::file::{check_folder, read_file};
use crate::base::{Error, Progress, Result, Stage};
use crate::edit::apply::TensorBytes;
use crate::store::write::{self, Item};
use crate::store::{Checkpoint, Shard, folder};

const FILE: &str = "model-00000-of-00001.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const CHECKSUM: &str = "xxh3-128";

/// zstd's fastest usual level, as the publishers of this layout use it.
const LEVEL: i32 = 1;

/// How the difference of a tensor's bytes is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// new ⊕ old.
    Xor,
    /// Positions and new values.
    Overwrite,
}

/// A version that was published.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// N.
    pub number: u64,
    /// Its folder.
    pub dir: PathBuf,
    /// The tensors in it, sorted.
    pub tensors: Vec<Difference>,
}

/// The difference of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Those that differ.
    pub changed: u64,
    /// Bytes of the compressed difference.
    pub written: u64,
}

impl Encoding {
    /// As the index names it.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Xor => "xor",
            Encoding::Overwrite => "overwrite",
        }
    }

    /// What is compressed.
    fn difference(self, old: &[u8], new: &[u8]) -> Vec<u8> {
        let changed = || old.iter().zip(new).zip(0u32..).filter(|((old, new), _)| old != new);
        match self {
            Encoding::Xor => old.iter().zip(new).map(|(old, new)| old ^ new).collect(),
            Encoding::Overwrite => {
                let mut all = (changed().count() as u32).to_le_bytes().to_vec();
                changed().for_each(|(_, at)| all.extend(at.to_le_bytes()));
                all.extend(changed().map(|((_, new), _)| new));
                all
            }
        }
    }
}

/// Publishes the step from the bytes `old` to the bytes `new` of the same tensors as the next
/// version in `dir`, whose folder appears whole or not at all.
///
/// # Errors
///
/// Tensors that the versions in `dir` left with other bytes than `old`; no difference; tensors
/// above 4 GiB as [`Encoding::Overwrite`]; a folder that cannot be read or written; cancellation.
pub fn publish(
    dir: &Path,
    old: &[TensorBytes],
    new: &[TensorBytes],
    encoding: Encoding,
    progress: &dyn Progress,
) -> Result<Version> {
    let published = published(dir)?;
    for tensor in old {
        check_current(dir, &published, tensor)?;
    }
    let base = published.last().copied().unwrap_or(0);
    let (number, mut tensors, mut packed) = (base + 1, Vec::new(), Vec::new());
    let (mut metadata, mut map) = (BTreeMap::new(), BTreeMap::new());
    let count = old.len() as u64;
    for (i, (old, new)) in old.iter().zip(new).enumerate() {
        progress.at(Stage::WriteWeights, i as u64, count);
        if progress.cancelled() {
            return Err(Error::Interrupted { kept: "nothing was published".into() });
        }
        assert!(old.name == new.name && old.bytes.len() == new.bytes.len(), "the same tensors");
        if old.bytes == new.bytes {
            continue;
        }
        if encoding == Encoding::Overwrite && u32::try_from(new.bytes.len()).is_err() {
            let what = format!("{} has more bytes than a position can say", new.name);
            return Err(Error::refused(what, "publish the difference as xor"));
        }
        let difference = encoding.difference(&old.bytes, &new.bytes);
        let failed = |e| Error::io(dir, "compress a difference for", e);
        let difference = zstd::bulk::compress(&difference, LEVEL).map_err(failed)?;
        metadata.insert(new.name.clone(), checksum(&new.bytes));
        map.insert(new.name.clone(), FILE);
        let changed = old.bytes.iter().zip(&new.bytes).filter(|(old, new)| old != new).count();
        let (bytes, written) = (new.bytes.len() as u64, difference.len() as u64);
        let changed = changed as u64;
        tensors.push(Difference { name: new.name.clone(), bytes, changed, written });
        packed.push(difference);
    }
    if tensors.is_empty() {
        let what = "no byte differs, so there is nothing to publish";
        return Err(Error::refused(what, "publish an edit that changes the weights"));
    }
    let item = |(tensor, packed): (&Difference, &Vec<u8>)| Item {
        name: tensor.name.clone(),
        dtype: Dtype::U8,
        shape: vec![packed.len()],
    };
    let items: Vec<Item> = tensors.iter().zip(&packed).map(item).collect();
    let index = json!({
        "metadata": {
            "version": format!("{number:06}"), "base_version": format!("{base:06}"),
            "delta_encoding": encoding.name(), "compression_format": "zstd",
            "checksum_format": CHECKSUM,
        },
        "weight_map": map,
    });
    let dir = place(dir, number);
    folder::build(&dir, |dir| {
        write::write(&dir.join(FILE), &metadata, &items, &mut |i, out| out.write_all(&packed[i]))?;
        write::whole(&dir.join(INDEX), format!("{index:#}\n").as_bytes())
    })?;
    Ok(Version { number, dir, tensors })
}

/// Refuses to take back what no version has: of tensors that none changed.
///
/// # Errors
///
/// That; versions that cannot be read.
pub fn check_published(dir: &Path, tensors: &[TensorBytes]) -> Result<()> {
    for number in published(dir)? {
        for tensor in tensors {
            if left(&place(dir, number), tensor)?.is_some() {
                return Ok(());
            }
        }
    }
    let what = "has no version that changed these tensors, so there is nothing to take back";
    Err(Error::input(dir, "versions", what, "name the folder that the edit was published in"))
}

fn place(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("weight_v{number:06}"))
}

fn checksum(bytes: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))
}

/// The versions in a folder, ascending; none where it is not there yet.
fn published(dir: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    if !dir.exists() {
        return Ok(numbers);
    }
    check_folder(dir)?;
    for file in fs::read_dir(dir).map_err(|e| Error::io(dir, "list", e))? {
        let name = file.map_err(|e| Error::io(dir, "list", e))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("weight_v"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Refuses a tensor that the newest version which has it left with other bytes.
fn check_current(dir: &Path, published: &[u64], tensor: &TensorBytes) -> Result<()> {
    for &number in published.iter().rev() {
        let dir = place(dir, number);
        let Some(left) = left(&dir, tensor)? else { continue };
        if left == checksum(&tensor.bytes) {
            return Ok(());
        }
        let what = "was left with other bytes by this version than the step starts from";
        let remedy = "publish steps in the order in which the weights take them, and take back the \
                      newest first";
        return Err(Error::input(dir, &tensor.name, what, remedy));
    }
    Ok(())
}

/// The checksum of a tensor as a version leaves it; none where the version does not have it.
fn left(dir: &Path, tensor: &TensorBytes) -> Result<Option<String>> {
    let index = dir.join(INDEX);
    let broken =
        |what: String| Error::input(&index, "metadata", what, "publish into a folder of its own");
    let read: Value = match index.exists() {
        false => Value::Null,
        true => serde_json::from_slice(&read_file(&index, 1 << 30)?)
            .map_err(|e| broken(format!("cannot be read: {e}")))?,
    };
    let metadata = &read["metadata"];
    if metadata.get("delta_encoding").is_none() {
        let whole = Checkpoint::open(dir)?;
        let found = whole.entry(&tensor.name);
        return Ok(found.map(|(shard, entry)| checksum(&shard.bytes(&entry.range))));
    }
    if metadata["checksum_format"] != CHECKSUM {
        return Err(broken(format!("has no checksums by {CHECKSUM}")));
    }
    let Some(file) = read["weight_map"][&tensor.name].as_str() else { return Ok(None) };
    let shard = Shard::open(&dir.join(file))?;
    Ok(shard.header().metadata.get(&tensor.name).cloned())
}
