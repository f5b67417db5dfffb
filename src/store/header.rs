//! The header of a safetensors file, read and refused.
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
//! Every other key names a tensor: `dtype` (a name of [`bits`]), `shape` (the empty one is a
//! scalar) and `data_offsets` [begin, end) counted from the first byte of `data`. The tensors cover
//! `data` exactly, without holes and without sharing a byte, and a key occurs once: so a file means
//! one thing to every reader, and no byte travels unseen.
//!
//! An element type nobody here has heard of is not refused, because a checkpoint may hold buffers
//! we never touch; its size cannot be checked then, and using the tensor is the error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::base::{Error, Result};

/// The longest header a reader accepts, in bytes.
pub const LONGEST: u64 = 100_000_000;

const DAMAGED: &str = "the file is damaged or no safetensors file: fetch or write it again";

/// What a safetensors file says before its data.
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
    /// The element type's name in the format.
    pub dtype: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are, counted from the first byte of the file.
    pub range: Range<u64>,
}

/// Bits of one element of a type the format knows.
pub fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E5M2FNUZ"
        | "F8_E4M3FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Bytes of a tensor: `None` where the type is unknown, the size overflows or is no whole byte.
pub fn size(dtype: &str, shape: &[usize]) -> Option<u64> {
    let sides = shape.iter().map(|&s| s as u64);
    let all = sides.into_iter().try_fold(bits(dtype)?, u64::checked_mul)?;
    (all % 8 == 0).then_some(all / 8)
}

impl Header {
    /// Reads the header of the file whose bytes these are; `path` is for the errors.
    ///
    /// # Errors
    ///
    /// Every departure from the format above, naming the tensor.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Header> {
        let wrong = |field: &str, what: String| Error::input(path, field, what, DAMAGED);
        let Some((word, rest)) = file.split_first_chunk::<8>() else {
            return Err(wrong("length", format!("the file has {} bytes, not 8", file.len())));
        };
        let n = u64::from_le_bytes(*word);
        if n > LONGEST {
            return Err(wrong("length", format!("a header of {n} bytes is over {LONGEST}")));
        }
        if n > rest.len() as u64 {
            let what = format!("a header of {n} bytes, but {} follow", rest.len());
            return Err(wrong("length", what));
        }
        let (json, data) = rest.split_at(n as usize);
        if json.first() != Some(&b'{') {
            return Err(wrong("header", "does not begin with '{'".into()));
        }
        let Pairs(keys): Pairs<Pairs<Value>> =
            serde_json::from_slice(json).map_err(|e| wrong("header", e.to_string()))?;
        let mut header = Header { len: 8 + n, ..Header::default() };
        for (name, Pairs(fields)) in keys {
            if name == "__metadata__" {
                header.metadata = metadata(fields).map_err(|e| wrong(&name, e))?;
            } else {
                let entry = entry(fields, header.len, data.len() as u64);
                header.tensors.insert(name.clone(), entry.map_err(|e| wrong(&name, e))?);
            }
        }
        header.covers(8 + n + data.len() as u64).map_err(|(name, e)| wrong(name, e))?;
        Ok(header)
    }

    /// The tensors lie end to end from the header to the end of the file.
    fn covers(&self, end: u64) -> std::result::Result<(), (&str, String)> {
        let mut order: Vec<_> = self.tensors.iter().collect();
        order.sort_by_key(|(_, t)| (t.range.start, t.range.end));
        let (mut at, mut last) = (self.len, "data");
        for (name, t) in order {
            if t.range.start < at {
                return Err((name, format!("shares bytes with {last}")));
            }
            if t.range.start > at {
                let hole = t.range.start - at;
                return Err((name, format!("{hole} bytes before it belong to no tensor")));
            }
            (at, last) = (t.range.end, name);
        }
        match end - at {
            0 => Ok(()),
            more => Err((last, format!("{more} bytes after it belong to no tensor"))),
        }
    }
}

type Fields = Vec<(String, Value)>;

fn metadata(fields: Fields) -> std::result::Result<BTreeMap<String, String>, String> {
    let strings = fields.into_iter().map(|(key, value)| match value {
        Value::String(text) => Ok((key, text)),
        _ => Err(format!("{key} is not a string")),
    });
    strings.collect()
}

fn entry(fields: Fields, first: u64, data: u64) -> std::result::Result<Entry, String> {
    let fields = Value::Object(fields.into_iter().collect());
    let t: RawEntry = serde_json::from_value(fields).map_err(|e| e.to_string())?;
    let (begin, end) = t.data_offsets;
    if begin > end || end > data {
        return Err(format!("data_offsets [{begin}, {end}) lie outside the {data} data bytes"));
    }
    if bits(&t.dtype).is_some() && size(&t.dtype, &t.shape) != Some(end - begin) {
        let (dtype, shape, have) = (&t.dtype, &t.shape, end - begin);
        return Err(format!("{have} bytes do not hold {dtype} of the shape {shape:?}"));
    }
    Ok(Entry { dtype: t.dtype, shape: t.shape, range: first + begin..first + end })
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// An object as it stands in the file. The library's own maps keep the last of two equal keys.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Visit<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Visit<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Pairs<V>, A::Error> {
                let (mut pairs, mut seen) = (Vec::new(), BTreeSet::new());
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format!("{key} is named twice")));
                    }
                    let value = map.next_value();
                    let value = value.map_err(|e| A::Error::custom(format!("{key}: {e}")))?;
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        d.deserialize_map(Visit(PhantomData))
    }
}
