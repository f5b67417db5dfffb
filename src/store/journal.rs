//! Changing weights in place so that no moment of the process's or the machine's death leaves half
//! a change, and so that every byte can come back.
//!
//! # What is on disk
//!
//! ```text
//! CHECKPOINT/.incise/
//!     lock                       held by who writes, shared by who opens
//!     0001.journal               what change 1 overwrote: record.rs
//!     0001.patch.safetensors     the patch of change 1
//!     0001.lineage.json          the lineage before change 1: lineage.rs
//!     0002.journal …
//!     lineage.json               the lineage after the newest change
//! ```
//!
//! # What happens when
//!
//! ```text
//! apply     1  write the patch, the lineage and, as N.partial, every old byte; sync the files
//!           2  rename to N.journal; sync the folder
//!           3  write the new bytes; sync the model's files
//!           4  write the new lineage as lineage.partial; sync; rename it; sync the folder
//!           5  mark COMMIT; sync
//! undo      1  mark UNDOING; sync
//!           2  roll back
//! rollback  1  write the old bytes; sync the model's files
//!           2  remove N.journal; sync the folder
//! recover   newest first, roll back each record without COMMIT or with UNDOING; then rename each
//!           lineage that belongs to no record to lineage.json, and remove what else belongs to
//!           none: patches, N.partial
//! ```
//!
//! Opening a checkpoint recovers it. `record.rs` draws the states of a record.
//!
//! # Invariants
//!
//! * **J1**: A byte of the model is overwritten only while a complete record of its old value, and
//!   the patch, lie in the synced folder.
//! * **J2**: After recovery each tensor is all old or all new, as the log says, and so is the
//!   lineage. Without a record in progress the model's files are whole.
//! * **J3**: What was reported as done is done, through a kill and a power cut. What was reported
//!   as failed has not happened, if the disk let it be put back.
//! * **J4**: Recovery may be interrupted anywhere and starts again. It needs no free space.
//! * **J5**: Undo puts bytes back, not sums: low-rank factors cannot return what rounding took. The
//!   length of a file and its header never change.
//! * **J6**: What could refuse is asked before the first byte is written: links that share the
//!   bytes with others, files nobody may write, and, for undo, bytes that are no longer those the
//!   change wrote, and a kept lineage that is damaged.
//! * **J7**: A record, wherever it comes from, makes us write to files of its own folder only,
//!   behind their headers, and no byte twice.
//!
//! `tests/store/crash.rs` and its neighbours hold these by name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::disk::{Disk, Handle, Os};
use super::gguf::GgufFile;
use super::header;
use super::history::{History, files, folder, patch_path, read, record_path, written_since};
use super::lineage::{self, Lineage};
use super::lock::Lock;
use super::patch::Patch;
use super::record::{
    FileIdentity, FileRange, Head, LogEntry, REMEDY, Record, RecordState, checksum,
};
use crate::base::{Error, Result};

/// The changes a checkpoint has seen.
///
/// # Errors
///
/// A change being written right now; a damaged record.
pub fn log(dir: &Path) -> Result<Vec<LogEntry>> {
    let _reading = recover(&Os, dir)?;
    Ok(History::read(dir)?.entries().cloned().collect())
}

/// Rolls back an interrupted change, if there is one, and keeps writers away while the result is
/// held.
///
/// # Errors
///
/// A change being written right now; an interrupted one in a folder that cannot be written.
pub fn recover(disk: &dyn Disk, dir: &Path) -> Result<Option<Lock>> {
    let folder = folder(dir)?;
    let lock = Lock::shared(&folder)?;
    let history = History::read(dir)?;
    if history.records.iter().all(|r| r.state() == RecordState::Committed) {
        return Ok(lock);
    }
    drop(lock);
    Journal::open(disk, dir).map_err(|e| {
        let why = std::error::Error::source(&e).map_or(String::new(), |s| format!(" ({s})"));
        let what = format!("an interrupted change cannot be rolled back now: {e}{why}");
        Error::input(&folder, "journal", what, "fix that and open the model again")
    })?;
    Lock::shared(&folder)
}

/// What an undo did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Undone {
    /// The changes that were undone, newest first.
    pub changes: Vec<LogEntry>,
    /// Whether a change that was cut off was found and rolled back first.
    pub rolled_back: bool,
}

/// Undoes changes, newest first: the newest, or all but the first `keep`. A change that was cut off
/// is the newest: rolling it back undoes it.
///
/// # Errors
///
/// Nothing to undo; and what [`Journal::open`] and [`Journal::undo`] refuse.
pub fn undo(disk: &dyn Disk, dir: &Path, keep: Option<usize>) -> Result<Undone> {
    // A model that was never changed gets no lock.
    let folder = folder(dir)?;
    let [lock, lineage] = [Lock::path(&folder), lineage::path(&folder)];
    if files(&folder)?.iter().all(|file| *file == lock || *file == lineage) {
        let _reading = Lock::shared(&folder)?; // refused while somebody changes it
        return Err(nothing_to_undo());
    }
    let mut journal = Journal::open(disk, dir)?;
    let rolled_back = journal.rolled_back;
    let there = journal.history.records.len();
    let keep = match keep {
        None if rolled_back => there,
        None if there == 0 => return Err(nothing_to_undo()),
        None => there - 1,
        Some(keep) if keep > there || keep == there && !rolled_back => {
            let what = format!("{there} changes are applied, and {keep} are to be kept");
            return Err(Error::refused(what, "keep fewer"));
        }
        Some(keep) => keep,
    };
    let changes = (keep..there).map(|_| journal.undo()).collect::<Result<_>>()?;
    Ok(Undone { changes, rolled_back })
}

fn nothing_to_undo() -> Error {
    Error::refused("no change is applied here", "name the folder of a model that was changed")
}

/// The right to change a checkpoint. One exists at a time, and while it does nobody opens the
/// checkpoint; an interrupted change is rolled back before it is handed out.
pub struct Journal<'a> {
    disk: &'a dyn Disk,
    folder: PathBuf,
    history: History,
    rolled_back: bool, // whether a change that was cut off was found
    _lock: Lock,
}

/// The files of a change, open for writing, by name.
type Files<'a> = BTreeMap<String, Handle<'a>>;

/// Makes the new bytes of range i from its original ones.
pub type NewBytes<'a> = dyn FnMut(usize, &[u8]) -> Result<Vec<u8>> + 'a;

/// Makes the lineage after a change, once all its new bytes are made.
pub type NewLineage<'a> = dyn FnMut() -> Lineage + 'a;

impl<'a> Journal<'a> {
    /// Takes the lock and recovers.
    pub fn open(disk: &'a dyn Disk, dir: &Path) -> Result<Journal<'a>> {
        let folder = folder(dir)?;
        if !folder.exists() {
            disk.create_dir(&folder).map_err(|e| Error::io(&folder, "create", e))?;
            sync_dir(disk, dir)?;
        }
        let lock = Lock::exclusive(&folder)?;
        let history = History { dir: dir.to_path_buf(), records: Vec::new() };
        let mut journal = Journal { disk, folder, history, rolled_back: false, _lock: lock };
        journal.recover()?;
        Ok(journal)
    }

    /// What was changed so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Applies a change: `new_bytes` makes the new bytes of range i from its original ones (those
    /// of [`History::original`]). Ranges are whole tensors, in pieces that fit in memory. Without
    /// a `new_lineage` the lineage stays as it is.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; the change is then rolled back already, or will be when the checkpoint
    /// is opened next.
    ///
    /// # Panics
    ///
    /// Where `new_bytes` makes another number of bytes than the range holds.
    pub fn apply(
        &mut self,
        patch: &Patch,
        ranges: Vec<FileRange>,
        new_bytes: &mut NewBytes,
        new_lineage: Option<&mut NewLineage>,
    ) -> Result<LogEntry> {
        let number = 1 + self.history.entries().last().map_or(0, |e| e.number);
        let done = self.try_apply(number, patch, ranges, new_bytes, new_lineage);
        if done.is_err() {
            // Should this fail too, the record is still there for the next who opens.
            let _ = self.abort(number);
        }
        done
    }

    fn try_apply(
        &mut self,
        number: u32,
        patch: &Patch,
        ranges: Vec<FileRange>,
        new_bytes: &mut NewBytes,
        new_lineage: Option<&mut NewLineage>,
    ) -> Result<LogEntry> {
        let files = self.open_files(ranges.iter().map(|range| range.file.as_str()))?;
        let identities = files.iter().map(|(name, file)| identity(name, file));
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let entry = LogEntry {
            number,
            time,
            method: patch.metadata.method.clone(),
            facts: patch.metadata.facts,
            tensors: patch.tensors().map(str::to_owned).collect(),
        };
        let head = Head { entry: entry.clone(), files: identities.collect::<Result<_>>()?, ranges };
        if new_lineage.is_some() {
            self.keep_lineage(number)?;
        }
        let mut record = self.save(&head, patch, &files)?;
        let mut checksums = Vec::with_capacity(head.ranges.len());
        for (i, range) in head.ranges.iter().enumerate() {
            let bytes = new_bytes(i, &self.history.original(range)?)?;
            assert_eq!(bytes.len() as u64, range.len, "Journal::apply: new bytes of range {i}");
            files[&range.file].write(&bytes, range.offset)?;
            checksums.push(checksum(&bytes));
        }
        files.values().try_for_each(Handle::sync)?;
        if let Some(new_lineage) = new_lineage {
            self.put(&lineage::path(&self.folder), &new_lineage().to_bytes())?;
        }
        record.commit(self.disk, &checksums)?;
        self.history.records.push(record);
        Ok(entry)
    }

    /// Steps 1 and 2 of apply.
    fn save(&self, head: &Head, patch: &Patch, files: &Files) -> Result<Record> {
        let number = head.entry.number;
        let path = patch_path(&self.folder, number);
        patch.check(&path)?;
        let copy = Handle::create(self.disk, &path)?;
        let mut out = BufWriter::new(copy.writer());
        let written = patch.write_to(&mut out).and_then(|()| out.flush());
        written.map_err(|e| Error::io(&path, "write", e))?;
        drop(out);
        copy.sync()?;
        let partial = self.folder.join(format!("{number:04}.partial"));
        Record::write(self.disk, &partial, head, &mut |range| read(&files[&range.file], range))?;
        let path = record_path(&self.folder, number);
        self.rename(&partial, &path)?;
        Record::read(&path)
    }

    /// Copies the lineage as it is to where change `number` keeps it.
    fn keep_lineage(&self, number: u32) -> Result<()> {
        let path = lineage::path(&self.folder);
        let bytes = match path.exists() {
            true => fs::read(&path).map_err(|e| Error::io(&path, "read", e))?,
            false => lineage::NONE.to_vec(),
        };
        self.put(&lineage::kept(&self.folder, number), &bytes)
    }

    /// Puts the lineage back that a change kept which is no longer there.
    fn restore_lineage(&self, kept: &Path) -> Result<()> {
        let path = lineage::path(&self.folder);
        if !lineage::was_none(kept)? {
            return self.rename(kept, &path);
        }
        if path.exists() {
            self.remove(&path)?;
            sync_dir(self.disk, &self.folder)?;
        }
        self.remove(kept)
    }

    /// Makes a small file hold these bytes, whole or not at all, and syncs it.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let partial = path.with_extension("partial");
        let file = Handle::create(self.disk, &partial)?;
        file.write(bytes, 0)?;
        file.sync()?;
        self.rename(&partial, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to).map_err(|e| Error::io(from, "rename", e))?;
        sync_dir(self.disk, &self.folder)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path).map_err(|e| Error::io(path, "remove", e))
    }

    /// Takes back a change that failed: also where its COMMIT was written and only the sync failed.
    fn abort(&mut self, number: u32) -> Result<()> {
        let history = History::read(&self.history.dir)?;
        for mut record in history.records {
            if record.head().entry.number == number && record.state() == RecordState::Committed {
                record.start_undo(self.disk)?;
            }
        }
        self.recover()
    }

    /// Undoes the newest change.
    ///
    /// # Errors
    ///
    /// No change; bytes that are not those the change wrote (something else has written the file
    /// since); a damaged record, or a lineage that is none; files that cannot be written. Nothing
    /// has happened then.
    pub fn undo(&mut self) -> Result<LogEntry> {
        let mut record = self.history.records.last().cloned().ok_or_else(nothing_to_undo)?;
        let entry = record.head().entry.clone();
        lineage::check_kept(&self.folder, entry.number)?;
        let files = self.files_of(&record)?;
        for (i, range) in record.head().ranges.iter().enumerate() {
            record.old(i)?;
            let file = &files[&range.file];
            if !record.wrote(i, &read(file, range)?)? {
                return Err(written_since(&record, range, file.path()));
            }
        }
        check(&record, &files)?;
        let started = record.start_undo(self.disk);
        let done = started.and_then(|()| self.rollback(&record, &files));
        // Removes the patch; finishes an undo that failed on the way, if the failure has passed.
        let recovered = self.recover();
        if self.history.entries().all(|e| e.number != entry.number) {
            Ok(entry)
        } else {
            Err(done.err().or(recovered.err()).expect("one of the two failed"))
        }
    }

    /// Rolls back what is not committed or being undone, and removes what belongs to no record.
    fn recover(&mut self) -> Result<()> {
        self.history = History::read(&self.history.dir)?;
        for record in self.history.records.iter().rev() {
            if record.state() != RecordState::Committed {
                self.rollback(record, &self.files_of(record)?)?;
                self.rolled_back = true;
            }
        }
        self.history.records.retain(|record| record.state() == RecordState::Committed);
        for kept in lineage::kept_alone(&self.folder)?.iter().rev() {
            self.restore_lineage(kept)?;
            self.rolled_back = true;
        }
        let numbers = self.history.entries().map(|e| e.number);
        let wanted: Vec<PathBuf> = numbers
            .flat_map(|n| [record_path(&self.folder, n), patch_path(&self.folder, n)])
            .collect();
        for path in files(&self.folder)? {
            let ours = [".journal", ".partial", ".patch.safetensors"];
            let name = path.to_string_lossy();
            if ours.iter().any(|end| name.ends_with(end)) && !wanted.contains(&path) {
                self.remove(&path)?;
                self.rolled_back = true; // cut off before its first byte, or behind its last
            }
        }
        Ok(())
    }

    /// Puts the old bytes back and removes the record. The patch is left to [`Journal::recover`]: a
    /// power failure may have taken it already.
    fn rollback(&self, record: &Record, files: &Files) -> Result<()> {
        check(record, files)?;
        for (i, range) in record.head().ranges.iter().enumerate() {
            files[&range.file].write(&record.old(i)?, range.offset)?;
        }
        files.values().try_for_each(Handle::sync)?;
        self.remove(record.path())?;
        sync_dir(self.disk, &self.folder)
    }

    /// The files a record writes, open.
    fn files_of(&self, record: &Record) -> Result<Files<'a>> {
        self.open_files(record.head().files.iter().map(|f| f.file.as_str()))
    }

    /// Opens files of the checkpoint for writing, once each.
    fn open_files<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Files<'a>> {
        let mut files = Files::new();
        for name in names {
            if !files.contains_key(name) {
                let path = self.history.dir.join(name);
                may_write(&path)?;
                files.insert(name.to_owned(), Handle::open(self.disk, &path, true)?);
            }
        }
        Ok(files)
    }
}

/// The files are those the record was made for, and what it writes lies behind their headers.
fn check(record: &Record, files: &Files) -> Result<()> {
    for was in &record.head().files {
        let now = identity(&was.file, &files[&was.file])?;
        if now != *was {
            let what = "is another file than the one that an interrupted change wrote to";
            let remedy = "if it is whole, remove the folder .incise beside it";
            return Err(Error::input(files[&was.file].path(), "header", what, remedy));
        }
    }
    for range in &record.head().ranges {
        if range.offset < data_start(&files[&range.file])? {
            let what = format!("{} of {} begins inside the header", range.offset, range.file);
            return Err(Error::input(record.path(), "ranges", what, REMEDY));
        }
    }
    Ok(())
}

/// Refuses files whose bytes belong to others too, and files marked as not to be written.
fn may_write(path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path).map_err(|e| Error::io(path, "look at", e))?;
    let elsewhere = "write a copy instead of changing this one";
    let refuse = |what, remedy: String| Err(Error::input(path, "file", what, remedy));
    if metadata.is_symlink() {
        return refuse("is a symbolic link, so others may use the same bytes", elsewhere.into());
    }
    if metadata.nlink() > 1 {
        let what = "has several names (hard links), so others may use the same bytes";
        return refuse(what, elsewhere.into());
    }
    if metadata.permissions().readonly() {
        let remedy = format!("make it writable with `chmod u+w`, or {elsewhere}");
        return refuse("is read-only", remedy);
    }
    Ok(())
}

/// The first byte behind a file's header.
fn data_start(file: &Handle) -> Result<u64> {
    let mut word = [0; 8];
    file.read(&mut word, 0)?;
    // As the length of a safetensors header that word would be over the limit.
    if word.starts_with(b"GGUF") {
        return Ok(GgufFile::open(file.path())?.header().data.min(file.size()?));
    }
    Ok(8 + u64::from_le_bytes(word).min(header::MAX_LEN).min(file.size()? - 8))
}

fn identity(name: &str, file: &Handle) -> Result<FileIdentity> {
    let mut bytes = vec![0; (data_start(file)? - 8) as usize];
    file.read(&mut bytes, 8)?;
    let header = blake3::hash(&bytes).to_hex().to_string();
    Ok(FileIdentity { file: name.to_owned(), len: file.size()?, header })
}

fn sync_dir(disk: &dyn Disk, path: &Path) -> Result<()> {
    disk.sync_dir(path).map_err(|e| Error::io(path, "sync", e))
}
