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

use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{Disk, Handle, Os};
use super::folder;
use crate::base::{Error, Result};

const MAGIC: &[u8; 8] = b"INCISEJ1";
pub(super) const REMEDY: &str =
    "restore the model's files from a copy, then remove its folder .incise";

type Checksum = [u8; 32];
const SUM: u64 = size_of::<Checksum>() as u64;

/// A change in the log of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
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
pub struct Place {
    /// The file's name in the folder.
    pub file: String,
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

impl Place {
    /// From the first byte to after the last.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len)
    }
}

/// A file as the change found it: what an edit of weights leaves as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its name in the folder.
    pub file: String,
    /// Its length in bytes.
    pub len: u64,
    /// Checksum of its header, in hexadecimal.
    pub header: String,
}

/// What a record says before the old bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// For the log.
    pub entry: Entry,
    /// The files that are written.
    pub files: Vec<Known>,
    /// What is overwritten; no byte twice.
    pub places: Vec<Place>,
}

/// Seconds from 1970 to the end of the year 9999, the last that a date has room for.
const LAST: u64 = 253_402_300_799;

impl Head {
    /// What none of our records says. A folder may come from anywhere, and opening it puts old
    /// bytes back: they must lie in the folder's own files, behind the length that these begin with
    /// and no byte of them twice. That they lie behind the headers, the journal asks of the files.
    fn check(&self, path: &Path) -> std::result::Result<(), String> {
        let Entry { number, time, .. } = self.entry;
        if path.file_stem().is_none_or(|stem| *stem != *format!("{number:04}")) {
            return Err(format!("it is the record of change {number}, under another's name"));
        }
        if number == u32::MAX || time > LAST {
            return Err(format!("change {number} at second {time} is beyond every count"));
        }
        if let Some(known) = self.files.iter().find(|known| !folder::is_name(&known.file)) {
            return Err(format!("{:?} is no file of this folder", known.file));
        }
        let fits = |place: &&Place| {
            let file = self.files.iter().find(|known| known.file == place.file);
            file.is_some_and(|known| place.offset >= 8 && place.range().end <= known.len)
        };
        if let Some(place) = self.places.iter().find(|place| !fits(place)) {
            return Err(format!("{place:?} lies in no file that it lists"));
        }
        let mut places: Vec<&Place> = self.places.iter().collect();
        places.sort_by_key(|place| (&place.file, place.offset));
        let overlap = |p: &&[&Place]| p[0].file == p[1].file && p[0].range().end > p[1].offset;
        match places.windows(2).find(overlap) {
            Some(p) => Err(format!("{:?} and {:?} share bytes", p[0], p[1])),
            None => Ok(()),
        }
    }
}

/// How far a change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
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
    state: State,
}

impl Record {
    /// Writes a record to `path` and syncs it; `old` reads the bytes of a place.
    ///
    /// # Errors
    ///
    /// A file that cannot be written; what `old` returns.
    pub fn write(
        disk: &dyn Disk,
        path: &Path,
        head: &Head,
        old: &mut dyn FnMut(&Place) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let file = Handle::create(disk, path)?;
        let failed = |e| Error::io(path, "write", e);
        let json = serde_json::to_vec(head).expect("strings and numbers");
        let mut out = BufWriter::new(file.stream());
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(failed);
        put(MAGIC)?;
        put(&(json.len() as u64).to_le_bytes())?;
        put(&json)?;
        put(&sum(&[&json]))?;
        for place in &head.places {
            let bytes = old(place)?;
            put(&bytes)?;
            put(&sum(&[&bytes]))?;
        }
        let marks = head.places.len() + 2;
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
            return Err(damaged("the record is cut off"));
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
            Record { path: path.to_path_buf(), head, head_sum, body, state: State::Writing };
        if record.at(record.head.places.len()).checked_add(record.marks_len()) != Some(size) {
            return Err(damaged("the record is cut off"));
        }
        record.state = record.read_state(&file)?;
        Ok(record)
    }

    fn read_state(&self, file: &Handle) -> Result<State> {
        let mut marks = vec![0; self.marks_len() as usize];
        file.read(&mut marks, self.at(self.head.places.len()))?;
        let (new, marks) = marks.split_at(marks.len() - 2 * SUM as usize);
        let (commit, undoing) = marks.split_at(SUM as usize);
        Ok(if undoing == self.undoing() {
            State::Undoing
        } else if commit == self.commit_mark(new) {
            State::Committed
        } else {
            State::Writing
        })
    }

    /// Where the record is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How far the change has come.
    pub fn state(&self) -> State {
        self.state
    }

    /// The bytes place i held before.
    ///
    /// # Errors
    ///
    /// A record that cannot be read; old bytes that no longer match their checksum.
    pub fn old(&self, i: usize) -> Result<Vec<u8>> {
        let file = Handle::open(&Os, &self.path, false)?;
        let mut bytes = vec![0; self.head.places[i].len as usize];
        let mut want = [0; 32];
        file.read(&mut bytes, self.at(i))?;
        file.read(&mut want, self.at(i) + bytes.len() as u64)?;
        match sum(&[&bytes]) == want {
            true => Ok(bytes),
            false => {
                let what = format!("the old bytes of place {i} are damaged");
                Err(Error::input(&self.path, "old bytes", what, REMEDY))
            }
        }
    }

    /// Whether these are the bytes that a committed change wrote to place i.
    ///
    /// # Errors
    ///
    /// A record that cannot be read.
    pub fn wrote(&self, i: usize, bytes: &[u8]) -> Result<bool> {
        let file = Handle::open(&Os, &self.path, false)?;
        let mut want = [0; 32];
        file.read(&mut want, self.at(self.head.places.len()) + i as u64 * SUM)?;
        Ok(sum(&[bytes]) == want)
    }

    /// Marks the change as complete, and syncs; `new` holds a [`checksum`] for each place.
    ///
    /// # Errors
    ///
    /// A record that cannot be written.
    pub fn commit(&mut self, disk: &dyn Disk, new: &[Checksum]) -> Result<()> {
        let file = Handle::open(disk, &self.path, true)?;
        let marks = [new.as_flattened(), &self.commit_mark(new.as_flattened())].concat();
        file.write(&marks, self.at(self.head.places.len()))?;
        file.sync()?;
        self.state = State::Committed;
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
        self.state = State::Undoing;
        Ok(())
    }

    /// Where the old bytes of place i are, or, for one more than there are, the marks.
    fn at(&self, i: usize) -> u64 {
        let before = self.head.places[..i].iter().map(|p| p.len.saturating_add(SUM));
        before.fold(self.body, u64::saturating_add)
    }

    fn marks_len(&self) -> u64 {
        (self.head.places.len() as u64 + 2) * SUM
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
