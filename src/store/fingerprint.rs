//! Names for contents: a hash of what went in, computed in one place.
//!
//! All are the first 128 bits of BLAKE3, as 32 hexadecimal digits.

use std::io::{self, Write};
use std::ops::Range;

use serde_json::Value;

use super::{Bytes, Checkpoint};
use crate::base::Result;

/// Keys of `config.json` that do not change the computation.
const IGNORED: [&str; 2] = ["_name_or_path", "transformers_version"];

/// Bytes of a tensor that enter the fingerprint of a model.
const SAMPLE: usize = 64 << 10;

/// The fingerprint of bytes that arrive in pieces.
#[derive(Default)]
pub struct Fingerprint(blake3::Hasher);

impl Fingerprint {
    /// More bytes; how they are cut does not matter.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Something of unknown length, so that no two sequences of fields look alike.
    pub fn field(&mut self, bytes: &[u8]) {
        self.add(&(bytes.len() as u64).to_le_bytes());
        self.add(bytes);
    }

    /// The name of what was added.
    pub fn hex(&self) -> String {
        let hash = self.0.finalize().to_hex();
        hash[..32].to_owned()
    }
}

impl Write for Fingerprint {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The fingerprint of a tensor: all of its bytes.
pub fn tensor_fingerprint(bytes: &[u8]) -> String {
    let mut all = Fingerprint::default();
    all.add(bytes);
    all.hex()
}

/// The fingerprint of a model: its configuration, and name, type, shape and a sample of 64 KiB of
/// every tensor, from its beginning, middle and end. Those that `is_editable` names are not
/// sampled. How the tensors are spread over files, and in which order, does not matter.
///
/// # Errors
///
/// A file that cannot be read.
pub fn model_fingerprint(
    checkpoint: &Checkpoint,
    is_editable: &dyn Fn(&str) -> bool,
) -> Result<String> {
    let mut all = Fingerprint::default();
    let mut config = String::new();
    canonical(checkpoint.config(), &mut config);
    all.field(config.as_bytes());
    for (name, shard, entry) in checkpoint.entries() {
        all.field(name.as_bytes());
        all.field(entry.dtype.as_bytes());
        all.field(format!("{:?}", entry.shape).as_bytes());
        if !is_editable(name) {
            let bytes = shard.bytes(&entry.range);
            for piece in sample(bytes.len()) {
                all.field(&bytes.read(piece)?);
            }
        }
    }
    Ok(all.hex())
}

/// Whether the sample of two tensors, as a fingerprint takes it, is the same.
///
/// # Errors
///
/// A file that cannot be read.
pub fn same_sample(a: &Bytes, b: &Bytes) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for piece in sample(a.len()) {
        if a.read(piece.clone())? != b.read(piece)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All of a small tensor, else a third of the sample each from beginning, middle and end.
fn sample(len: usize) -> [Range<usize>; 3] {
    let third = SAMPLE / 3;
    match len {
        ..=SAMPLE => [0..len, 0..0, 0..0],
        n => [0, (n - third) / 2, n - third].map(|from| from..from + third),
    }
}

/// The value as JSON with sorted keys and no space, without those that are ignored.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> =
                fields.iter().filter(|(key, _)| !IGNORED.contains(&key.as_str())).collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, value) in fields {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}
