//! The header of a safetensors file: read, validated, refused.
//!
//! # The format
//!
//! ```text
//! n        8 bytes    length of the header, little-endian
//! header   n bytes    UTF-8 JSON, begins with '{', may end in spaces, at most 100 MB
//! data     the rest   the tensors' elements, little-endian, row-major
//! ```
//!
//! The header is one object. The key `__metadata__`, which may be absent, maps strings to strings.
//! Every other key names a tensor: `dtype` (a name of [`Dtype`]), `shape` (the empty one is a
//! scalar) and `data_offsets` [begin, end) counted from the first byte of `data`. The tensors cover
//! `data` exactly, without gaps and without sharing a byte, and a key occurs once: so a file means
//! one thing to every reader, and no byte goes unseen.
//!
//! The format's own library describes a tensor ([`TensorInfo`]) and has the last word on all of
//! them together ([`Metadata`]). The checks before it are ours: they name the tensor, and refuse
//! what the library lets pass, as a key that occurs twice.
//!
//! An element type that the library does not know is not refused, because a checkpoint may hold
//! buffers we never touch; its size cannot be checked then, and using the tensor is the error.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use serde_json::Value;

use crate::base::file::check_pointer;
use crate::base::json::UniqueKeys;
use crate::base::{DType, Error, Result};

/// The longest header a reader accepts, in bytes.
pub const MAX_LEN: u64 = 100_000_000;

/// The key that names no tensor.
pub const METADATA: &str = "__metadata__";

const DAMAGED: &str = "the file is damaged or no safetensors file: fetch or write it again";

/// What precedes the data of a safetensors file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Entry>,
    /// Bytes before the data: 8 + n.
    pub len: u64,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The element type's name in the file.
    pub dtype: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are, counted from the first byte of the file.
    pub range: Range<u64>,
}

impl From<DType> for Dtype {
    fn from(dtype: DType) -> Dtype {
        match dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
        }
    }
}

/// Bytes of a tensor: `None` where the size overflows or is no whole byte.
pub fn size(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let bits = shape.iter().copied().try_fold(dtype.bitsize(), usize::checked_mul)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

impl Header {
    /// Reads the header of the file whose bytes these are; `path` is for the errors.
    ///
    /// # Errors
    ///
    /// Every departure from the format above, naming the tensor.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Header> {
        check_pointer(path, file)?;
        let wrong = |field: &str, what: String| Error::input(path, field, what, DAMAGED);
        let Some((word, rest)) = file.split_first_chunk::<8>() else {
            return Err(wrong("length", format!("the file has {} bytes, not 8", file.len())));
        };
        let n = u64::from_le_bytes(*word);
        if n > MAX_LEN {
            return Err(wrong("length", format!("a header of {n} bytes is over {MAX_LEN}")));
        }
        if n > rest.len() as u64 {
            let what = format!("a header of {n} bytes, but {} follow", rest.len());
            return Err(wrong("length", what));
        }
        let (json, data) = rest.split_at(n as usize);
        if json.first() != Some(&b'{') {
            return Err(wrong("header", "does not begin with '{'".into()));
        }
        let json = serde_json::from_slice(json).map_err(|e| wrong("header", e.to_string()))?;
        let UniqueKeys(Value::Object(fields)) = json else {
            return Err(wrong("header", "is no object".into()));
        };
        let mut header = Header { len: 8 + n, ..Header::default() };
        let mut tensors = Vec::new();
        for (name, value) in fields {
            if name == METADATA {
                header.metadata = metadata(value).map_err(|e| wrong(&name, e))?;
                continue;
            }
            let read = tensor(value, header.len, data.len());
            let (entry, info) = read.map_err(|e| wrong(&name, e))?;
            header.tensors.insert(name.clone(), entry);
            tensors.push((name, info));
        }
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        end_to_end(&tensors, data.len()).map_err(|(name, e)| wrong(name, e))?;
        Metadata::new(None, tensors).map_err(|e| wrong("header", e.to_string()))?;
        Ok(header)
    }
}

fn metadata(value: Value) -> std::result::Result<BTreeMap<String, String>, String> {
    let Value::Object(fields) = value else { return Err("is no object".into()) };
    let strings = fields.into_iter().map(|(key, value)| match value {
        Value::String(text) => Ok((key, text)),
        _ => Err(format!("{key} is not a string")),
    });
    strings.collect()
}

/// One tensor of a file whose data begin at byte `first`, and how the library describes it. One of
/// a type that it does not know is so many bytes to it.
fn tensor(
    mut value: Value,
    first: u64,
    data: usize,
) -> std::result::Result<(Entry, TensorInfo), String> {
    let dtype = value.get("dtype").and_then(Value::as_str);
    let dtype = dtype.ok_or("missing field `dtype`, a string")?.to_owned();
    let is_known = Dtype::deserialize(&value["dtype"]).is_ok();
    if !is_known {
        value["dtype"] = "U8".into();
    }
    let mut info: TensorInfo = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let shape = info.shape.clone();
    let (begin, end) = info.data_offsets;
    if begin > end || end > data {
        return Err(format!("data_offsets [{begin}, {end}) lie outside the {data} data bytes"));
    }
    let bytes = end - begin;
    if !is_known {
        info.shape = vec![bytes];
    } else if size(info.dtype, &shape) != Some(bytes) {
        return Err(format!("{bytes} bytes do not hold {dtype} of the shape {shape:?}"));
    }
    Ok((Entry { dtype, shape, range: first + begin as u64..first + end as u64 }, info))
}

/// The tensors, in the order of their bytes, lie end to end from the first byte of the data to the
/// last.
fn end_to_end(
    tensors: &[(String, TensorInfo)],
    data: usize,
) -> std::result::Result<(), (&str, String)> {
    let mut next = 0;
    let mut last = "data";
    for (name, info) in tensors {
        let (begin, end) = info.data_offsets;
        if begin < next {
            return Err((name, format!("shares bytes with {last}")));
        }
        if begin > next {
            return Err((name, format!("{} bytes before it belong to no tensor", begin - next)));
        }
        next = end;
        last = name;
    }
    match data - next {
        0 => Ok(()),
        more => Err((last, format!("{more} bytes after it belong to no tensor"))),
    }
}
