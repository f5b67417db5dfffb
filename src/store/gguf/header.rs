//! What precedes the weights of a GGUF file: read, validated, refused.
//!
//! # The format
//!
//! ```text
//! "GGUF"     4 bytes
//! version    u32        2 or 3, which are the same to a reader; numbers are little-endian
//! tensors    u64        how many there are
//! pairs      u64        how many there are
//! each pair             key (text), type (u32), value
//! each tensor           name (text), dimensions (u32, at most 4), sizes from the inner one (u64
//!                       each), type of block (u32), where it begins, counted from the data (u64)
//! zeros up to a multiple of the alignment: the pair `general.alignment`, or 32
//! data                  the tensors in this order, zeros up to a multiple of the alignment after
//!                       each
//!
//! text                  length (u64), UTF-8
//! array                 type (u32), length (u64), values
//! ```
//!
//! As llama.cpp does, we refuse a key or a tensor that occurs twice, an array of arrays, and
//! tensors that do not lie end to end; so a file means one thing to every reader. Beyond that, we
//! refuse bytes behind the last tensor, which belong to nothing.
//!
//! Source: llama.cpp's `gguf.md`, and `gguf.cpp`, which is the reader.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::block_types::BlockType;
use crate::base::file::check_pointer;
use crate::base::{Error, Result};

/// The most bytes that may precede the data; vocabularies of a million pieces have less.
pub const MAX_LEN: u64 = 100_000_000;

/// How a file begins.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
const MAX_DIMENSIONS: u32 = 4;

const DAMAGED: &str = "the file is damaged or no GGUF file: fetch or write it again";

/// What precedes the weights of a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufHeader {
    /// Of the format: 2 or 3.
    pub version: u32,
    /// The pairs.
    pub metadata: BTreeMap<String, MetadataValue>,
    /// Where the pairs lie in the file.
    pub pairs: Range<u64>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<GgufTensor>,
    /// Every tensor begins at a multiple of this, counted from the data.
    pub alignment: u64,
    /// Where the data begins in the file.
    pub data: u64,
    by_name: BTreeMap<String, usize>, // which of the tensors
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// Sizes, outermost first: (out, in) of a matrix. The inner one is whole blocks.
    pub shape: Vec<usize>,
    /// Its type of block.
    pub kind: &'static BlockType,
    /// Where its bytes are, counted from the first byte of the file.
    pub range: Range<u64>,
}

/// The value of a pair. Whole numbers are here in their widest type.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// A whole number of a type without sign.
    Unsigned(u64),
    /// A whole number of a type with a sign.
    Signed(i64),
    /// A number in single precision.
    Float(f32),
    /// A number in double precision.
    Double(f64),
    /// On or off.
    Bool(bool),
    /// Text.
    Text(String),
    /// Whole numbers without sign.
    Unsigneds(Vec<u64>),
    /// Whole numbers with a sign.
    Signeds(Vec<i64>),
    /// Numbers in single precision.
    Floats(Vec<f32>),
    /// Numbers in double precision.
    Doubles(Vec<f64>),
    /// Several on or off.
    Bools(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
}

impl GgufHeader {
    /// Reads the header of the file whose bytes these are; `path` is for the errors.
    ///
    /// # Errors
    ///
    /// Every departure from the format above, naming the key or the tensor.
    pub fn parse(path: &Path, file: &[u8]) -> Result<GgufHeader> {
        check_pointer(path, file)?;
        read(file).map_err(|Wrong { field, what, remedy }| Error::input(path, field, what, remedy))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.position(name).map(|i| &self.tensors[i])
    }

    /// Which of the tensors has that name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

/// What is wrong, and where.
struct Wrong {
    field: String,
    what: String,
    remedy: &'static str,
}

fn wrong(field: &str, what: impl Into<String>) -> Wrong {
    Wrong { field: field.to_owned(), what: what.into(), remedy: DAMAGED }
}

type Read<T> = std::result::Result<T, Wrong>;

fn read(file: &[u8]) -> Read<GgufHeader> {
    // No vocabulary is longer, and no other bytes are looked at.
    let head = &file[..file.len().min(MAX_LEN as usize)];
    let mut at = Cursor { file: head, at: 0 };
    if at.take(4, "magic")? != MAGIC {
        return Err(wrong("magic", "does not begin with GGUF"));
    }
    let version = at.u32("version")?;
    match version {
        2 | 3 => {}
        1 => {
            let remedy = "convert the model again with a present converter";
            return Err(Wrong { remedy, ..wrong("version", "1 is no longer read") });
        }
        v if v >= 1 << 16 && v.swap_bytes() < 1 << 16 => {
            let remedy = "convert the model again, to a little-endian file";
            return Err(Wrong { remedy, ..wrong("version", "the file is big-endian") });
        }
        v => return Err(wrong("version", format!("{v} is not known, only 2 and 3 are"))),
    }
    let (n_tensors, n_pairs) = (at.u64("tensor count")?, at.u64("pair count")?);
    let begin = at.at as u64;
    let mut metadata = BTreeMap::new();
    for i in 0..n_pairs {
        let field = format!("pair {i}");
        let key = at.text(&field)?;
        let value = at.value(&key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(wrong(&key, "occurs twice"));
        }
    }
    let pairs = begin..at.at as u64;
    let alignment = alignment(&metadata)?;
    let mut places = Vec::new();
    let mut by_name = BTreeMap::new();
    for i in 0..n_tensors {
        let (tensor, offset) = place(&mut at, i)?;
        if by_name.insert(tensor.name.clone(), places.len()).is_some() {
            return Err(wrong(&tensor.name, "occurs twice"));
        }
        places.push((tensor, offset));
    }
    let data = (at.at as u64).checked_next_multiple_of(alignment);
    let data = data.ok_or_else(|| wrong(ALIGNMENT, format!("{alignment} is absurd")))?;
    if !places.is_empty() && data > file.len() as u64 {
        let what = format!("begins at byte {data}, and the file has {}", file.len());
        return Err(wrong("data", what));
    }
    let tensors = end_to_end(places, data, alignment, file.len() as u64)?;
    Ok(GgufHeader { version, metadata, pairs, tensors, alignment, data, by_name })
}

fn alignment(metadata: &BTreeMap<String, MetadataValue>) -> Read<u64> {
    match metadata.get(ALIGNMENT) {
        None => Ok(32),
        Some(MetadataValue::Unsigned(n)) if n.is_power_of_two() => Ok(*n),
        Some(_) => Err(wrong(ALIGNMENT, "is no power of two")),
    }
}

/// The description of tensor i, with no place yet, and where it says it begins.
fn place(at: &mut Cursor, i: u64) -> Read<(GgufTensor, u64)> {
    let name = at.text(&format!("tensor {i}"))?;
    let dimensions = at.u32(&name)?;
    if dimensions > MAX_DIMENSIONS {
        return Err(wrong(&name, format!("{dimensions} dimensions are over {MAX_DIMENSIONS}")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = at.u64(&name)?;
        let size = usize::try_from(size).ok().filter(|&n| n <= isize::MAX as usize);
        shape.insert(0, size.ok_or_else(|| wrong(&name, "a size overflows"))?);
    }
    if shape.contains(&0) {
        return Err(wrong(&name, "a size is 0"));
    }
    let id = at.u32(&name)?;
    let kind = BlockType::by_id(id);
    let kind = kind.ok_or_else(|| wrong(&name, format!("type {id} is not known")))?;
    let offset = at.u64(&name)?;
    Ok((GgufTensor { name, shape, kind, range: 0..0 }, offset))
}

/// The tensors with their places, which must lie one behind the other in a file of `len` bytes.
fn end_to_end(
    places: Vec<(GgufTensor, u64)>,
    data: u64,
    alignment: u64,
    len: u64,
) -> Read<Vec<GgufTensor>> {
    // Of the data: where the next tensor begins, and where the bytes of the last one end.
    let (mut next, mut end) = (0u64, 0u64);
    let room = len.saturating_sub(data);
    let mut tensors = Vec::with_capacity(places.len());
    for (mut tensor, offset) in places {
        let name = &tensor.name;
        let shown = || format!("{} of the shape {:?}", tensor.kind.name, tensor.shape);
        let size = tensor.kind.size(&tensor.shape).ok_or_else(|| {
            wrong(name, format!("{} is no whole blocks of {}", shown(), tensor.kind.elements))
        })?;
        if offset != next {
            return Err(wrong(name, format!("begins at {offset} and not at {next}")));
        }
        let rest = room.saturating_sub(offset);
        if size as u64 > rest {
            return Err(wrong(name, format!("{} takes {size} bytes, {rest} follow", shown())));
        }
        end = offset + size as u64;
        tensor.range = data + offset..data + end;
        next = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        tensors.push(tensor);
    }
    let last = tensors.last().map_or("data", |tensor| &tensor.name);
    match room.saturating_sub(next.max(end)) {
        0 => Ok(tensors),
        more => Err(wrong(last, format!("{more} bytes after it belong to no tensor"))),
    }
}

/// Where we are in the header.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    /// The next n bytes; a number from the file may be anything.
    fn take(&mut self, n: u64, field: &str) -> Read<&'a [u8]> {
        if n > self.rest() {
            let what = format!("{n} bytes are wanted and {} are left of the file", self.rest());
            return Err(wrong(field, what));
        }
        let bytes = &self.file[self.at..][..n as usize];
        self.at += n as usize;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Read<[u8; N]> {
        Ok(self.take(N as u64, field)?.try_into().expect("as many as were taken"))
    }

    fn u32(&mut self, field: &str) -> Read<u32> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &str) -> Read<u64> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn text(&mut self, field: &str) -> Read<String> {
        let n = self.u64(field)?;
        let bytes = self.take(n, field)?;
        str::from_utf8(bytes).map(str::to_owned).map_err(|_| wrong(field, "text is not UTF-8"))
    }

    fn bool(&mut self, field: &str) -> Read<bool> {
        match self.array(field)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [n] => Err(wrong(field, format!("{n} is neither on (1) nor off (0)"))),
        }
    }

    fn value(&mut self, key: &str) -> Read<MetadataValue> {
        use MetadataValue::{Bool, Double, Float, Signed, Text, Unsigned};
        Ok(match self.u32(key)? {
            0 => Unsigned(u8::from_le_bytes(self.array(key)?).into()),
            1 => Signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => Signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Unsigned(u32::from_le_bytes(self.array(key)?).into()),
            5 => Signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Float(f32::from_le_bytes(self.array(key)?)),
            7 => Bool(self.bool(key)?),
            8 => Text(self.text(key)?),
            9 => self.values(key)?,
            10 => Unsigned(u64::from_le_bytes(self.array(key)?)),
            11 => Signed(i64::from_le_bytes(self.array(key)?)),
            12 => Double(f64::from_le_bytes(self.array(key)?)),
            id => return Err(wrong(key, format!("a value of type {id}, which is not known"))),
        })
    }

    fn values(&mut self, key: &str) -> Read<MetadataValue> {
        use MetadataValue::{Bools, Doubles, Floats, Signeds, Texts, Unsigneds};
        let (id, n) = (self.u32(key)?, self.u64(key)?);
        Ok(match id {
            0 => Unsigneds(self.each(n, key, |b| u8::from_le_bytes(b).into())?),
            1 => Signeds(self.each(n, key, |b| i8::from_le_bytes(b).into())?),
            2 => Unsigneds(self.each(n, key, |b| u16::from_le_bytes(b).into())?),
            3 => Signeds(self.each(n, key, |b| i16::from_le_bytes(b).into())?),
            4 => Unsigneds(self.each(n, key, |b| u32::from_le_bytes(b).into())?),
            5 => Signeds(self.each(n, key, |b| i32::from_le_bytes(b).into())?),
            6 => Floats(self.each(n, key, f32::from_le_bytes)?),
            7 => {
                let bytes = self.take(n, key)?;
                if bytes.iter().any(|&byte| byte > 1) {
                    return Err(wrong(key, "holds what is neither on (1) nor off (0)"));
                }
                Bools(bytes.iter().map(|&byte| byte == 1).collect())
            }
            8 => {
                let mut texts = Vec::new();
                for _ in 0..n {
                    texts.push(self.text(key)?);
                }
                Texts(texts)
            }
            9 => return Err(wrong(key, "is an array of arrays, which no model has")),
            10 => Unsigneds(self.each(n, key, u64::from_le_bytes)?),
            11 => Signeds(self.each(n, key, i64::from_le_bytes)?),
            12 => Doubles(self.each(n, key, f64::from_le_bytes)?),
            id => return Err(wrong(key, format!("an array of type {id}, which is not known"))),
        })
    }

    /// n numbers of N bytes.
    fn each<T, const N: usize>(
        &mut self,
        n: u64,
        key: &str,
        of: impl Fn([u8; N]) -> T,
    ) -> Read<Vec<T>> {
        let bytes = self.take(n.saturating_mul(N as u64), key)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|&b| of(b)).collect())
    }
}
