//! A file of values, to which records are added.
//!
//! ```text
//! values                      "incise values 1\n", then a record a fact:
//!     key                     32 hexadecimal digits: of everything the value depends on
//!     D, A, S                 u32, little-endian: sizes of t₀ and δ, of δ_a, steps
//!     t₀ δ δ_a                f64
//!     nll kl decay            f64, for each step
//!     sum                     16 bytes of BLAKE3 of the record before it
//! ```
//!
//! A record that was cut off by a kill is dropped, a damaged one is passed over. Values do not
//! depend on which other facts were searched, so a file of values serves any run that asks for the
//! same facts: the same command again, one without some facts, or one that joins what several
//! machines found.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::search::{LossStep, TargetValue};
use crate::base::file::open_file;
use crate::base::{Error, Result};
use crate::store::write;

const MAGIC: &[u8] = b"incise values 1\n";
const KEY: usize = 32;
const SUM: usize = 16;

/// A record of a file of values.
struct Record {
    key: Option<String>, // none where it is damaged
    sizes: [usize; 3],
    next: u64, // where the next one begins
}

/// A file of values.
pub struct ValueStore {
    path: PathBuf,
    file: File,
    end: u64,
    damaged: bool, // some record is
    at: HashMap<String, (u64, [usize; 3])>,
}

impl ValueStore {
    /// Opens or makes a file to which values are added.
    ///
    /// # Errors
    ///
    /// A file of another kind; one that cannot be written.
    pub fn open(path: &Path) -> Result<ValueStore> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut values = ValueStore::scan(path, file.map_err(|e| Error::io(path, "write to", e))?)?;
        if values.end == 0 {
            values.append(MAGIC)?;
        }
        values.file.set_len(values.end).map_err(|e| Error::io(path, "write to", e))?;
        Ok(values)
    }

    /// Opens a file to be read.
    ///
    /// # Errors
    ///
    /// A file of another kind; one that was cut off.
    pub fn read(path: &Path) -> Result<ValueStore> {
        let values = ValueStore::scan(path, open_file(path)?)?;
        let len = values.file.metadata().map_err(|e| Error::io(path, "look at", e))?.len();
        if values.end != len || len == 0 || values.damaged {
            let what = format!("is damaged or cut off after {} bytes of {len}", values.end);
            return Err(Error::input(path, "values", what, "make the piece again"));
        }
        Ok(values)
    }

    fn scan(path: &Path, file: File) -> Result<ValueStore> {
        let failed = |e| Error::io(path, "read", e);
        let metadata = file.metadata().map_err(failed)?;
        let len = metadata.len();
        let mut values =
            ValueStore { path: path.to_owned(), file, end: 0, damaged: false, at: HashMap::new() };
        if len == 0 && metadata.is_file() {
            return Ok(values);
        }
        let mut magic = vec![0; MAGIC.len().min(len as usize)];
        if values.file.read_exact_at(&mut magic, 0).is_err() || !MAGIC.starts_with(&magic) {
            return Err(not_ours(path));
        }
        if magic.len() < MAGIC.len() {
            return Ok(values); // cut off in its first line
        }
        values.end = MAGIC.len() as u64;
        while let Some(Record { key, sizes, next }) = values.record(values.end, len)? {
            match key {
                Some(key) => drop(values.at.insert(key, (values.end, sizes))),
                None => values.damaged = true,
            }
            values.end = next;
        }
        Ok(values)
    }

    /// The record at `from`; `None` where there is no whole one.
    fn record(&self, from: u64, len: u64) -> Result<Option<Record>> {
        let failed = |e| Error::io(&self.path, "read", e);
        let mut head = [0; KEY + 12];
        if from + head.len() as u64 > len {
            return Ok(None);
        }
        self.file.read_exact_at(&mut head, from).map_err(failed)?;
        let size = |i: usize| u32::from_le_bytes(head[KEY + 4 * i..][..4].try_into().expect("4"));
        let sizes = [0, 1, 2].map(|i| size(i) as usize);
        let body = head.len() as u64 + 8 * floats(sizes);
        let next = from + body + SUM as u64;
        if next > len {
            return Ok(None);
        }
        let mut bytes = vec![0; body as usize + SUM];
        self.file.read_exact_at(&mut bytes, from).map_err(failed)?;
        let (body, sum) = bytes.split_at(body as usize);
        let key = String::from_utf8_lossy(&head[..KEY]).into_owned();
        let whole = blake3::hash(body).as_bytes()[..SUM] == *sum;
        Ok(Some(Record { key: whole.then_some(key), sizes, next }))
    }

    /// Whether there is a value of that key.
    pub fn has(&self, key: &str) -> bool {
        self.at.contains_key(key)
    }

    /// The value of that key.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<TargetValue>> {
        let Some(&(from, sizes @ [d, a, _])) = self.at.get(key) else { return Ok(None) };
        let mut bytes = vec![0; 8 * floats(sizes) as usize];
        let read = self.file.read_exact_at(&mut bytes, from + (KEY + 12) as u64);
        read.map_err(|e| Error::io(&self.path, "read", e))?;
        let mut floats = bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
        let mut take = |n: usize| floats.by_ref().take(n).collect::<Vec<f64>>();
        let (t0, delta, attention_delta) = (take(d), take(d), take(a));
        let step = |s: &[f64]| LossStep { nll: s[0], kl: s[1], weight_decay: s[2], missed: 0 };
        let trace = take(3 * sizes[2]).chunks_exact(3).map(step).collect();
        Ok(Some(TargetValue { t0, delta, attention_delta, trace }))
    }

    /// Adds a value.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn put(&mut self, key: &str, value: &TargetValue) -> Result<()> {
        assert_eq!(key.len(), KEY, "a key of another kind");
        let TargetValue { t0, delta, attention_delta, trace } = value;
        let sizes = [t0.len(), attention_delta.len(), trace.len()];
        let mut record = key.as_bytes().to_vec();
        sizes.iter().for_each(|&n| record.extend((n as u32).to_le_bytes()));
        let steps = trace.iter().flat_map(|s| [s.nll, s.kl, s.weight_decay]);
        let all = t0.iter().chain(delta).chain(attention_delta).copied().chain(steps);
        all.for_each(|x| record.extend(x.to_le_bytes()));
        record.extend(&blake3::hash(&record).as_bytes()[..SUM]);
        self.at.insert(key.to_owned(), (self.end, sizes));
        self.append(&record)
    }

    /// Adds the values of another file that are not there yet.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or written.
    pub fn add_all(&mut self, other: &ValueStore) -> Result<()> {
        let sorted: BTreeMap<_, _> = other.at.iter().collect(); // an order of their own
        for key in sorted.keys() {
            if !self.at.contains_key(*key) {
                let value = other.get(key)?.expect("a key of its own");
                self.put(key, &value)?;
            }
        }
        Ok(())
    }

    /// Makes a file that appears once `fill` has filled it.
    ///
    /// # Errors
    ///
    /// What `fill` says; a file that cannot be written. Nothing is left behind then.
    pub fn write_whole(
        path: &Path,
        fill: impl FnOnce(&mut ValueStore) -> Result<()>,
    ) -> Result<()> {
        let failed = |e| Error::io(path, "write", e);
        let file = write::temporary(path)?;
        let mut values = ValueStore::open(file.path())?;
        path.clone_into(&mut values.path); // what errors name
        fill(&mut values)?;
        values.file.sync_all().map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, self.end);
        written.map_err(|e| Error::io(&self.path, "write to", e))?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

fn floats([d, a, s]: [usize; 3]) -> u64 {
    2 * d as u64 + a as u64 + 3 * s as u64
}

fn not_ours(path: &Path) -> Error {
    let remedy = "name a file of values that a shard of an edit wrote, or that was merged of such";
    Error::input(path, "format", "is not a file of values", remedy)
}
