//! The changes that a checkpoint has seen, read from its journal's folder; and the paths in that
//! folder. Nothing here writes: that is [`journal`](super::journal).

use std::fs;
use std::path::{Path, PathBuf};

use super::disk::{Handle, Os};
use super::patch::Patch;
use super::record::{FileRange, LogEntry, Record};
use crate::base::{Error, Result};

/// The journal's folder in a checkpoint.
pub const FOLDER: &str = ".incise";

/// The changes a checkpoint has seen, oldest first.
#[derive(Clone, Debug)]
pub struct History {
    pub(super) dir: PathBuf,
    pub(super) records: Vec<Record>,
}

impl History {
    /// Reads the records; there are none where nothing was changed.
    ///
    /// # Errors
    ///
    /// A folder of another's journal; a damaged record.
    pub fn read(dir: &Path) -> Result<History> {
        let mut records = Vec::new();
        for path in files(&folder(dir)?)? {
            if path.extension().is_some_and(|e| e == "journal") {
                records.push(Record::read(&path)?);
            }
        }
        records.sort_by_key(|r| r.head().entry.number);
        Ok(History { dir: dir.to_path_buf(), records })
    }

    /// For the log.
    pub fn entries(&self) -> impl Iterator<Item = &LogEntry> {
        self.records.iter().map(|r| &r.head().entry)
    }

    /// The files that were changed, by their names in the folder.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.records.iter().flat_map(|r| &r.head().files).map(|file| &*file.file)
    }

    /// The patch of change `number`.
    ///
    /// # Errors
    ///
    /// As [`Patch::read`].
    pub fn patch(&self, number: u32) -> Result<Patch> {
        Patch::read(&patch_path(&self.dir.join(FOLDER), number))
    }

    /// The patches that changed a file, oldest first.
    ///
    /// # Errors
    ///
    /// As [`Patch::read`].
    pub fn patches_of(&self, file: &str) -> Result<Vec<Patch>> {
        let of = |record: &&Record| record.head().files.iter().any(|own| own.file == file);
        let numbers = self.records.iter().filter(of).map(|record| record.head().entry.number);
        numbers.map(|number| self.patch(number)).collect()
    }

    /// Refuses a range that something else has written since its newest change, whose records are
    /// no longer of these bytes.
    ///
    /// # Errors
    ///
    /// Such a range; a damaged record.
    pub fn check_written(&self, range: &FileRange) -> Result<()> {
        for record in self.records.iter().rev() {
            let Some(i) = record.head().ranges.iter().position(|own| own == range) else {
                continue;
            };
            return match record.wrote(i, &self.current(range)?)? {
                true => Ok(()),
                false => Err(written_since(record, range, &self.dir.join(&range.file))),
            };
        }
        Ok(())
    }

    /// The bytes of a range before any change: those of the oldest record that overwrote them, else
    /// those in the file.
    ///
    /// # Errors
    ///
    /// A damaged record; one that overwrote only a part of the range, as no change of ours does.
    pub fn original(&self, range: &FileRange) -> Result<Vec<u8>> {
        for record in &self.records {
            let (bytes, found) = before(record, range)?;
            if found == range.len {
                return Ok(bytes);
            }
            if found > 0 {
                let what = format!("{found} of {} bytes of {} are in it", range.len, range.file);
                let remedy = "undo this change first";
                return Err(Error::input(record.path(), "ranges", what, remedy));
            }
        }
        self.current(range)
    }

    /// The bytes of a range as they are.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn current(&self, range: &FileRange) -> Result<Vec<u8>> {
        read(&Handle::open(&Os, &self.dir.join(&range.file), false)?, range)
    }
}

/// What is said of bytes that are not those a change wrote.
pub(super) fn written_since(record: &Record, range: &FileRange, file: &Path) -> Error {
    let FileRange { offset, len, .. } = range;
    let number = record.head().entry.number;
    let what = format!(
        "is not as change {number} left it: some of the {len} bytes from {offset} on were written \
         since"
    );
    let remedy = "restore the file from a copy, or remove the folder .incise if this is a new one";
    Error::input(file, "data", what, remedy)
}

/// The bytes of a range, from its open file.
pub(super) fn read(file: &Handle, range: &FileRange) -> Result<Vec<u8>> {
    let mut bytes = vec![0; range.len as usize];
    file.read(&mut bytes, range.offset)?;
    Ok(bytes)
}

/// What `record` overwrote of a range, and how many of its bytes that is.
fn before(record: &Record, range: &FileRange) -> Result<(Vec<u8>, u64)> {
    let mut bytes = Vec::new();
    let mut found = 0;
    for (i, recorded) in record.head().ranges.iter().enumerate() {
        let from = recorded.offset.max(range.offset);
        let to = recorded.end().min(range.end());
        if recorded.file != range.file || from >= to {
            continue;
        }
        let old = record.old(i)?;
        if recorded == range {
            return Ok((old, range.len));
        }
        bytes.resize(range.len as usize, 0);
        let part = &old[(from - recorded.offset) as usize..(to - recorded.offset) as usize];
        bytes[(from - range.offset) as usize..][..part.len()].copy_from_slice(part);
        found += to - from;
    }
    Ok((bytes, found))
}

/// The journal's folder of a checkpoint, there or not. A link to another's would undo here what
/// was changed there.
pub(super) fn folder(dir: &Path) -> Result<PathBuf> {
    let folder = dir.join(FOLDER);
    match fs::symlink_metadata(&folder) {
        Ok(metadata) if !metadata.is_dir() => {
            let remedy = "remove it: a model's changes are kept beside its own files";
            Err(Error::input(&folder, "journal", "is no folder of its own", remedy))
        }
        _ => Ok(folder),
    }
}

pub(super) fn patch_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:04}.patch.safetensors"))
}

pub(super) fn record_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:04}.journal"))
}

/// The files in a folder, sorted; none where there is no folder.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let list = || fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>();
    let mut paths: Vec<PathBuf> = list().map_err(|e| Error::io(folder, "list", e))?;
    paths.sort();
    Ok(paths)
}
