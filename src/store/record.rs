//! One record of a journal: what a change overwrote, and how far the change has come.
//!
//! # The format
//!
//! ```text
//! "INCISEJ1"                                  8 bytes
//! n                                           8 bytes, little-endian
//! head                                        n bytes of JSON: Head
//! checksum of the head                        32 bytes
//! for each range of the head, in its order
//!     the old bytes, checksum of them         range.len + 32 bytes
//! for each range: checksum of the new bytes   32 bytes, zero at first
//! COMMIT                                      32 bytes, zero at first
//! UNDOING                                     32 bytes, zero at first
//! ```
//!
//! Checksums are BLAKE3. COMMIT is the checksum of the head's checksum, the new bytes' checksums
//! and the word; UNDOING that of the head's checksum and the word. A mark that a power failure cut
//! in half is therefore no mark.
//!
//! # The states
//!
//! ```text
//!         Journal::save             Record::commit               Record::start_undo
//! (none) ───────────────► Writing ─────────────────► Committed ─────────────────────► Undoing
//!    ▲                       │                                                           │
//!    └───────────────────────┴──────────── Journal::rollback ────────────────────────────┘
//! ```

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{Disk, Handle, Os};
use super::write;
use crate::base::{Error, Result};

const MAGIC: &[u8; 8] = b"INCISEJ1";
pub(super) const REMEDY: &str =
    "restore the model's files from a copy, then remove its folder .incise";

type Checksum = [u8; 32];
const SUM: u64 = size_of::<Checksum>() as u64;

/// A change in the log of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Counts from 1.
    pub number: u32,
    /// When it was applied, in seconds since 1970 began.
    pub time: u64,
    /// The method that made the patch.
    pub method: String,
    /// How many facts it changes.
    pub facts: u64,
    /// The tensors it changes.
    pub tensors: Vec<String>,
}

/// Bytes of one file of the checkpoint that are overwritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRange {
    /// The file's name in the folder.
    pub file: String,
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

impl FileRange {
    /// The byte after the last.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// A file as the change found it: what an edit of weights leaves as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Its name in the folder.
    pub file: String,
    /// Its length in bytes.
    pub len: u64,
    /// Checksum of its header, in hexadecimal.
    pub header: String,
}

/// What precedes the old bytes in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// For the log.
    pub entry: LogEntry,
    /// The files that are written.
    pub files: Vec<FileIdentity>,
    /// What is overwritten; no byte twice.
    #[serde(rename = "places")] // the name in the format
    pub ranges: Vec<FileRange>,
}

/// Seconds from 1970 to the end of the year 9999, the last that a date can have.
const LAST: u64 = 253_402_300_799;

impl Head {
    /// What is wrong with it. A folder may come from anywhere, and opening it puts old bytes back:
    /// they must be in the folder's own files, behind the length that these begin with, and no byte
    /// of them twice (J7). That they are behind the headers, the journal checks in the files.
    fn check(&self, path: &Path) -> std::result::Result<(), String> {
        let LogEntry { number, time, .. } = self.entry;
        if path.file_stem().is_none_or(|stem| *stem != *format!("{number:04}")) {
            return Err(format!("it is the record of change {number}, under another's name"));
        }
        if number == u32::MAX || time > LAST {
            return Err(format!("change {number} at second {time} is out of range"));
        }
        if let Some(file) = self.files.iter().find(|file| !write::is_name(&file.file)) {
            return Err(format!("{:?} is no file of this folder", file.file));
        }
        let is_inside = |range: &&FileRange| {
            let file = self.files.iter().find(|file| file.file == range.file);
            file.is_some_and(|file| range.offset >= 8 && range.end() <= file.len)
        };
        if let Some(range) = self.ranges.iter().find(|range| !is_inside(range)) {
            return Err(format!("{range:?} is in no file that it lists"));
        }
        let mut ranges: Vec<&FileRange> = self.ranges.iter().collect();
        ranges.sort_by_key(|range| (&range.file, range.offset));
        let overlap = |p: &&[&FileRange]| p[0].file == p[1].file && p[0].end() > p[1].offset;
        match ranges.windows(2).find(overlap) {
            Some(p) => Err(format!("{:?} and {:?} share bytes", p[0], p[1])),
            None => Ok(()),
        }
    }
}

/// How far a change has come, as the head of this file draws it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// New bytes may be there, or some of them.
    Writing,
    /// All new bytes are there.
    Committed,
    /// Old bytes may be there, or some of them.
    Undoing,
}

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    path: PathBuf,
    head: Head,
    head_sum: Checksum,
    body: u64, // where the first old bytes are
    state: RecordState,
}

impl Record {
    /// Writes a record to `path` and syncs it; `old` reads the bytes of a range.
    ///
    /// # Errors
    ///
    /// A file that cannot be written; what `old` returns.
    pub fn write(
        disk: &dyn Disk,
        path: &Path,
        head: &Head,
        old: &mut dyn FnMut(&FileRange) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let file = Handle::create(disk, path)?;
        let failed = |e| Error::io(path, "write", e);
        let json = serde_json::to_vec(head).expect("strings and numbers");
        let mut out = BufWriter::new(file.writer());
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(failed);
        put(MAGIC)?;
        put(&(json.len() as u64).to_le_bytes())?;
        put(&json)?;
        put(&sum(&[&json]))?;
        for range in &head.ranges {
            let bytes = old(range)?;
            put(&bytes)?;
            put(&sum(&[&bytes]))?;
        }
        let marks = head.ranges.len() + 2;
        put(&vec![0; marks * SUM as usize])?;
        out.flush().map_err(failed)?;
        drop(out);
        file.sync()
    }

    /// Reads all but the old bytes.
    ///
    /// # Errors
    ///
    /// A file that is damaged, or that no change of ours wrote.
    pub fn read(path: &Path) -> Result<Record> {
        let damaged = |what: &str| Error::input(path, "head", what, REMEDY);
        let file = Handle::open(&Os, path, false)?;
        let size = file.size()?;
        let mut start = [0; 16];
        if size < 16 + SUM {
            return Err(damaged("the record is truncated"));
        }
        file.read(&mut start, 0)?;
        let (magic, n) = start.split_at(8);
        let n = n.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
        if magic != MAGIC || n > size - 16 - SUM {
            return Err(damaged("this is no record of a change, or a damaged one"));
        }
        let mut json = vec![0; n as usize];
        file.read(&mut json, 16)?;
        let mut head_sum = [0; 32];
        file.read(&mut head_sum, 16 + n)?;
        if head_sum != sum(&[&json]) {
            return Err(damaged("its checksum is wrong: the record is damaged"));
        }
        let head: Head = serde_json::from_slice(&json).map_err(|e| damaged(&e.to_string()))?;
        head.check(path).map_err(|what| damaged(&what))?;
        let body = 16 + n + SUM;
        let mut record =
            Record { path: path.to_path_buf(), head, head_sum, body, state: RecordState::Writing };
        if record.at(record.head.ranges.len()).checked_add(record.marks_len()) != Some(size) {
            return Err(damaged("the record is truncated"));
        }
        record.state = record.read_state(&file)?;
        Ok(record)
    }

    fn read_state(&self, file: &Handle) -> Result<RecordState> {
        let mut marks = vec![0; self.marks_len() as usize];
        file.read(&mut marks, self.at(self.head.ranges.len()))?;
        let (new, marks) = marks.split_at(marks.len() - 2 * SUM as usize);
        let (commit, undoing) = marks.split_at(SUM as usize);
        Ok(if undoing == self.undoing() {
            RecordState::Undoing
        } else if commit == self.commit_mark(new) {
            RecordState::Committed
        } else {
            RecordState::Writing
        })
    }

    /// Where the record is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What precedes the old bytes.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How far the change has come.
    pub fn state(&self) -> RecordState {
        self.state
    }

    /// The bytes that range i held before.
    ///
    /// # Errors
    ///
    /// A record that cannot be read; old bytes that no longer match their checksum.
    pub fn old(&self, i: usize) -> Result<Vec<u8>> {
        let file = Handle::open(&Os, &self.path, false)?;
        let mut bytes = vec![0; self.head.ranges[i].len as usize];
        let mut want = [0; 32];
        file.read(&mut bytes, self.at(i))?;
        file.read(&mut want, self.at(i) + bytes.len() as u64)?;
        if sum(&[&bytes]) != want {
            let what = format!("the old bytes of range {i} are damaged");
            return Err(Error::input(&self.path, "old bytes", what, REMEDY));
        }
        Ok(bytes)
    }

    /// Whether these are the bytes that a committed change wrote to range i.
    ///
    /// # Errors
    ///
    /// A record that cannot be read.
    pub fn wrote(&self, i: usize, bytes: &[u8]) -> Result<bool> {
        let file = Handle::open(&Os, &self.path, false)?;
        let mut want = [0; 32];
        file.read(&mut want, self.at(self.head.ranges.len()) + i as u64 * SUM)?;
        Ok(sum(&[bytes]) == want)
    }

    /// Marks the change as complete, and syncs; `new` holds a [`checksum`] for each range.
    ///
    /// # Errors
    ///
    /// A record that cannot be written.
    pub fn commit(&mut self, disk: &dyn Disk, new: &[Checksum]) -> Result<()> {
        let file = Handle::open(disk, &self.path, true)?;
        let marks = [new.as_flattened(), &self.commit_mark(new.as_flattened())].concat();
        file.write(&marks, self.at(self.head.ranges.len()))?;
        file.sync()?;
        self.state = RecordState::Committed;
        Ok(())
    }

    /// Marks that old bytes are about to return, and syncs.
    ///
    /// # Errors
    ///
    /// A record that cannot be written.
    pub fn start_undo(&mut self, disk: &dyn Disk) -> Result<()> {
        let file = Handle::open(disk, &self.path, true)?;
        file.write(&self.undoing(), file.size()? - SUM)?;
        file.sync()?;
        self.state = RecordState::Undoing;
        Ok(())
    }

    /// Where the old bytes of range i are, or, for one more than there are, the marks.
    fn at(&self, i: usize) -> u64 {
        let before = self.head.ranges[..i].iter().map(|p| p.len.saturating_add(SUM));
        before.fold(self.body, u64::saturating_add)
    }

    fn marks_len(&self) -> u64 {
        (self.head.ranges.len() as u64 + 2) * SUM
    }

    fn commit_mark(&self, new: &[u8]) -> Checksum {
        sum(&[&self.head_sum, new, b"COMMIT"])
    }

    fn undoing(&self) -> Checksum {
        sum(&[&self.head_sum, b"UNDOING"])
    }
}

/// The checksum of some bytes.
pub fn checksum(bytes: &[u8]) -> Checksum {
    sum(&[bytes])
}

fn sum(parts: &[&[u8]]) -> Checksum {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}
