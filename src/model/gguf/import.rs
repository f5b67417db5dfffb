//! A GGUF file into a new folder that the framework, and every command here, reads.
//!
//! ```text
//! config.json, tokenizer.json, tokenizer_config.json     from the pairs
//! model.safetensors                                      from the tensors, a piece at a time
//! ```
//!
//! Elements of the file's own types stay as they are; quantised ones become F32, which holds their
//! values exactly, unless another type is asked for. The metadata of the weights say which file
//! they are of: `gguf` is the [`Fingerprint`] of all its bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use super::config::config;
use super::keys::Keys;
use super::rows::{GgufFamily, ROWS};
use super::tensors::{Planned, Rows, plan};
use super::tokenizer::{fault, vocabulary};
use crate::base::{DType, Error, Progress, Result, Stage};
use crate::model::arch::Arch;
use crate::model::families::{self, Described};
use crate::model::family::Family;
use crate::store::disk::Os;
use crate::store::gguf::{Content, GgufFile, GgufTensor};
use crate::store::journal;
use crate::store::lock::Lock;
use crate::store::write::{self, Item};
use crate::store::{Fingerprint, folder};
use crate::text::Vocabulary;

/// Elements that are widened at once.
const PIECE: usize = 1 << 20;

/// Key of the weights' metadata: which file they are of.
pub const ORIGIN: &str = "gguf";

/// A file, understood: nothing of its weights is read yet.
pub struct GgufModel {
    file: GgufFile,
    family: &'static Family,
    arch: Arch,
    config: Value,
    planned: Vec<Planned>,
    vocabulary: Vocabulary,
    _reading: Option<Lock>, // nobody changes the file in place meanwhile
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// `model_type`.
    pub family: &'static str,
    /// How many tensors.
    pub tensors: usize,
    /// Bytes of the weights.
    pub bytes: u64,
    /// Fingerprint of the file.
    pub origin: String,
}

impl GgufModel {
    /// Reads what precedes the weights, and finds each tensor's place.
    ///
    /// # Errors
    ///
    /// A file that is none, or damaged; an architecture that is not implemented; keys and tensors
    /// that contradict each other. Each names the key or the tensor. A file that another process
    /// changes in place.
    pub fn open(path: &Path) -> Result<GgufModel> {
        // A link's journal is beside the file that it names.
        let path = &path.canonicalize().map_err(|e| Error::io(path, "open", e))?;
        let reading = journal::recover(&Os, write::folder(path))?;
        let file = GgufFile::open(path)?;
        let keys = Keys::of(&file)?;
        let row = row(keys)?;
        let layers = keys.required(&keys.own("block_count"))?;
        let tensors = file.header().tensors.len();
        if layers > tensors as u64 {
            let what = format!("is {layers}, and the file has {tensors} tensors");
            return Err(keys.wrong(&keys.own("block_count"), what));
        }
        let config = config(keys, row)?;
        let Described { family, arch, .. } = families::describe(&config, path)?;
        let planned = plan(keys, row, family, &arch)?;
        let vocabulary = vocabulary(keys, row.spaces)?;
        if vocabulary.tokens.len() > arch.vocabulary {
            let (n, rows) = (vocabulary.tokens.len(), arch.vocabulary);
            let what = format!("{n} tokens, and the embedding has {rows} rows");
            return Err(fault(keys, ("tokens", what)));
        }
        Ok(GgufModel { file, family, arch, config, planned, vocabulary, _reading: reading })
    }

    /// The file.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// What it describes.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// `config.json`, but for the type of elements.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The file's tensors, each under its name in the checkpoint.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &GgufTensor)> {
        let tensors = &self.file.header().tensors;
        self.planned.iter().map(|planned| (&*planned.name, &tensors[planned.source]))
    }

    /// The file's tensors that hold down projections, which edits change.
    pub fn editable(&self) -> Vec<&GgufTensor> {
        let end = format!(".{}.weight", self.family.names.down);
        let of_layers = self.tensors().filter(|(name, _)| name.ends_with(&end));
        of_layers.map(|(_, tensor)| tensor).collect()
    }

    /// `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// A vocabulary that is not implemented, or contradicts itself.
    pub fn tokenizer(&self) -> Result<Value> {
        let keys = Keys::of(&self.file)?;
        self.vocabulary.tokenizer_json().map_err(|e| fault(keys, e))
    }

    /// Bytes of the checkpoint's weights.
    pub fn bytes(&self, asked: Option<DType>) -> u64 {
        let elements = |planned: &Planned| planned.shape.iter().product::<usize>();
        let sizes = self
            .planned
            .iter()
            .map(|planned| (elements(planned) * self.dtype(planned, asked).size()) as u64);
        sizes.sum()
    }

    /// The type that a tensor has in the checkpoint.
    fn dtype(&self, planned: &Planned, asked: Option<DType>) -> DType {
        let own = match self.file.header().tensors[planned.source].kind.content {
            Content::Plain(dtype) => dtype,
            _ => DType::F32,
        };
        asked.unwrap_or(own)
    }

    fn write(&self, dir: &Path, asked: Option<DType>, progress: &dyn Progress) -> Result<Imported> {
        let tokenizer = self.tokenizer()?;
        let origin = self.origin(progress)?;
        let mut config = self.config.clone();
        let down = self.planned.iter().find(|p| p.name.contains(self.family.names.down));
        let elements = down.map_or(DType::F32, |planned| self.dtype(planned, asked));
        config["torch_dtype"] = match elements {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
        }
        .into();
        for (name, value) in [
            ("config.json", &config),
            ("tokenizer.json", &tokenizer),
            ("tokenizer_config.json", &self.vocabulary.tokenizer_config()),
        ] {
            let text = serde_json::to_vec_pretty(value).expect("values have keys of text");
            write::whole(&dir.join(name), &text)?;
        }
        drop(tokenizer);
        let bytes = self.write_weights(&dir.join("model.safetensors"), asked, &origin, progress)?;
        self.file.unchanged()?;
        let (family, tensors) = (self.family.name, self.planned.len());
        Ok(Imported { family, tensors, bytes, origin })
    }

    /// Writes the weights; returns how many bytes they have.
    fn write_weights(
        &self,
        path: &Path,
        asked: Option<DType>,
        origin: &str,
        progress: &dyn Progress,
    ) -> Result<u64> {
        let item = |planned: &Planned| {
            let mut shape = planned.shape.clone();
            if planned.transposed {
                shape.reverse();
            }
            let dtype = self.dtype(planned, asked).into();
            Item { name: planned.name.clone(), dtype, shape }
        };
        let items: Vec<Item> = self.planned.iter().map(item).collect();
        let bytes = self.bytes(asked);
        let metadata = [("format", "pt"), (ORIGIN, origin)];
        let metadata: BTreeMap<_, _> =
            metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut done = 0;
        let written = write::write(path, &metadata, &items, &mut |i, out| {
            let planned = &self.planned[i];
            let dtype = self.dtype(planned, asked);
            let mut narrow = Narrow { dtype, out, bytes: Vec::new() };
            let tensor = &self.file.header().tensors[planned.source];
            write_tensor(&self.file, tensor, planned, &mut |values| {
                if progress.cancelled() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                done += narrow.write(values)?;
                progress.at(Stage::WriteWeights, done, bytes);
                Ok(())
            })
        });
        if progress.cancelled() {
            return Err(Error::Interrupted { kept: "nothing was written".into() });
        }
        written.map(|()| bytes)
    }

    /// The fingerprint of all bytes.
    fn origin(&self, progress: &dyn Progress) -> Result<String> {
        let mut all = Fingerprint::default();
        for piece in self.file.mapped().all().chunks(16 * PIECE) {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".into() });
            }
            all.add(piece);
        }
        Ok(all.hex())
    }
}

/// Writes the checkpoint of a file into the folder `out`, which appears whole or not at all; its
/// elements in the type that is asked for, or as this file's head says.
///
/// # Errors
///
/// As [`GgufModel::open`]; a vocabulary that is not implemented; a folder `out` that is not empty;
/// what the system refuses; cancellation.
pub fn import(
    file: &Path,
    out: &Path,
    dtype: Option<DType>,
    progress: &dyn Progress,
) -> Result<Imported> {
    let model = GgufModel::open(file)?;
    folder::build(out, |dir| model.write(dir, dtype, progress))
}

/// The row of a file.
fn row(keys: Keys) -> Result<&'static GgufFamily> {
    let has = |key: Option<&str>| key.is_none_or(|key| keys.get(&keys.own(key)).is_some());
    let fits = |row: &&GgufFamily| row.architecture == keys.architecture && has(row.having);
    ROWS.iter().find(fits).ok_or_else(|| {
        let mut known: Vec<&str> = ROWS.iter().map(|row| row.architecture).collect();
        known.dedup();
        let what = format!("`{}` is not implemented", keys.architecture);
        let remedy = format!("use a file of one of: {}", known.join(", "));
        Error::input(keys.file.path(), "general.architecture", what, remedy)
    })
}

/// Writes values in another type.
struct Narrow<'a> {
    dtype: DType,
    out: &'a mut dyn Write,
    bytes: Vec<u8>,
}

impl Narrow<'_> {
    /// How many bytes were written.
    fn write(&mut self, values: &[f32]) -> io::Result<u64> {
        self.bytes.clear();
        match self.dtype {
            DType::F32 => self.bytes.extend_from_slice(bytemuck::cast_slice(values)),
            dtype => {
                let wide: Vec<f64> = values.iter().map(|&x| x.into()).collect();
                dtype.narrow(&wide, &mut self.bytes);
            }
        }
        self.out.write_all(&self.bytes)?;
        Ok(self.bytes.len() as u64)
    }
}

/// Hands a tensor's values to `each`, in the order in which the checkpoint has them, in pieces.
fn write_tensor(
    file: &GgufFile,
    tensor: &GgufTensor,
    planned: &Planned,
    each: &mut dyn FnMut(&[f32]) -> io::Result<()>,
) -> io::Result<()> {
    let mut put = |values: &mut [f32]| {
        if planned.less_one {
            values.iter_mut().for_each(|x| *x -= 1.0);
        }
        each(values)
    };
    let read =
        |first: usize, out: &mut [f32]| file.rows(tensor, first, out).map_err(io::Error::other);
    let [out, width] = match planned.shape[..] {
        [out, width] => [out, width],
        // A vector's rows are its elements.
        _ => {
            let mut whole = vec![0.0; planned.shape.iter().product()];
            read(0, &mut whole)?;
            let mut turned: Vec<f32> =
                (0..whole.len()).map(|r| whole[planned.rows.source(r)]).collect();
            return put(&mut turned);
        }
    };
    if planned.transposed {
        let mut whole = vec![0.0; out * width];
        read(0, &mut whole)?;
        for column in 0..width {
            let of = |r: usize| whole[planned.rows.source(r) * width + column];
            put(&mut (0..out).map(of).collect::<Vec<f32>>())?;
        }
        return Ok(());
    }
    let rows = (PIECE / width.max(1)).clamp(1, out.max(1));
    let mut piece = vec![0.0; rows * width];
    for first in (0..out).step_by(rows) {
        let n = rows.min(out - first);
        let piece = &mut piece[..n * width];
        if planned.rows == Rows::Same {
            read(first, piece)?;
        } else {
            for (i, row) in piece.chunks_exact_mut(width).enumerate() {
                read(planned.rows.source(first + i), row)?;
            }
        }
        put(piece)?;
    }
    Ok(())
}
