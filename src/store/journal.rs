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
//!     0002.journal …
//! ```
//!
//! # What happens when
//!
//! ```text
//! apply    1  write the patch and, as N.partial, every old byte; sync both files
//!          2  rename to N.journal; sync the folder
//!          3  write the new bytes; sync the model's files
//!          4  mark COMMIT; sync
//! undo     1  mark UNDOING; sync
//!          2  write the old bytes; sync the model's files
//!          3  remove N.journal; sync the folder; remove the patch
//! open     newest first, for each record without COMMIT or with UNDOING: undo, from step 2
//! ```
//!
//! A model's file is written only while a complete record of its old bytes lies in the synced
//! folder, and it is whole, old or new, whenever no record says otherwise. A file's length never
//! changes. Undo puts bytes back, not sums: low-rank factors cannot return what rounding took.
//!
//! Before step 1 of either, everything that could refuse is asked: links that share the bytes with
//! others, files nobody may write, and, for undo, bytes that are no longer those the change wrote.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::disk::{Disk, Handle, Os};
use super::header;
use super::lock::Lock;
use super::patch::Patch;
use super::record::{Entry, Head, Known, Place, REMEDY, Record, State, checksum};
use crate::base::{Error, Operation, Remedy, Result};

/// The journal's folder in a checkpoint.
pub const FOLDER: &str = ".incise";

/// The changes a checkpoint has seen, oldest first.
#[derive(Clone, Debug)]
pub struct History {
    dir: PathBuf,
    records: Vec<Record>,
}

impl History {
    /// Reads what is there; nothing where nothing was changed.
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
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.records.iter().map(|r| &r.head().entry)
    }

    /// The patch of change `number`.
    ///
    /// # Errors
    ///
    /// As [`Patch::read`].
    pub fn patch(&self, number: u32) -> Result<Patch> {
        Patch::read(&patch_path(&self.dir.join(FOLDER), number))
    }

    /// The bytes of a place before any change: those of the oldest record that overwrote them, else
    /// those in the file.
    ///
    /// # Errors
    ///
    /// A damaged record; one that overwrote a part of the place only, which none of ours does.
    pub fn original(&self, place: &Place) -> Result<Vec<u8>> {
        for record in &self.records {
            let (bytes, found) = before(record, place)?;
            if found == place.len {
                return Ok(bytes);
            }
            if found > 0 {
                let what = format!("{found} of {} bytes of {} are in it", place.len, place.file);
                let remedy = "undo this change first";
                return Err(Error::input(record.path(), "places", what, remedy));
            }
        }
        self.current(place)
    }

    /// The bytes of a place as they are.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn current(&self, place: &Place) -> Result<Vec<u8>> {
        read(&Handle::open(&Os, &self.dir.join(&place.file), false)?, place)
    }
}

fn read(file: &Handle, place: &Place) -> Result<Vec<u8>> {
    let mut bytes = vec![0; place.len as usize];
    file.read(&mut bytes, place.offset)?;
    Ok(bytes)
}

/// What `record` overwrote of a place, and how many of its bytes that is.
fn before(record: &Record, place: &Place) -> Result<(Vec<u8>, u64)> {
    let (mut bytes, mut found) = (Vec::new(), 0);
    for (i, p) in record.head().places.iter().enumerate() {
        let (from, to) = (p.offset.max(place.offset), p.range().end.min(place.range().end));
        if p.file != place.file || from >= to {
            continue;
        }
        let old = record.old(i)?;
        if p == place {
            return Ok((old, place.len));
        }
        bytes.resize(place.len as usize, 0);
        let part = &old[(from - p.offset) as usize..(to - p.offset) as usize];
        bytes[(from - place.offset) as usize..][..part.len()].copy_from_slice(part);
        found += to - from;
    }
    Ok((bytes, found))
}

/// The changes a checkpoint has seen.
///
/// # Errors
///
/// A change being written right now; a damaged record.
pub fn log(dir: &Path) -> Result<Vec<Entry>> {
    let _reading = settle(&Os, dir)?;
    Ok(History::read(dir)?.entries().cloned().collect())
}

/// Undoes a change that was cut off, if there is one, and keeps writers away while the result is
/// held.
///
/// # Errors
///
/// A change being written right now; one that was cut off in a folder that cannot be written.
pub fn settle(disk: &dyn Disk, dir: &Path) -> Result<Option<Lock>> {
    let folder = folder(dir)?;
    let lock = Lock::shared(&folder)?;
    let history = History::read(dir)?;
    if history.records.iter().all(|r| r.state() == State::Committed) {
        return Ok(lock);
    }
    drop(lock);
    Journal::open(disk, dir).map_err(|e| {
        let why = std::error::Error::source(&e).map_or(String::new(), |s| format!(" ({s})"));
        let what = format!("a change was cut off and cannot be undone now: {e}{why}");
        Error::input(&folder, "journal", what, "mend that and open the model again")
    })?;
    Lock::shared(&folder)
}

/// Undoes changes, newest first: the newest, or all but the first `keep`. Returns what was undone.
///
/// # Errors
///
/// Nothing to undo; and what [`Journal::undo`] refuses.
pub fn undo(disk: &dyn Disk, dir: &Path, keep: Option<usize>) -> Result<Vec<Entry>> {
    let nothing = |what: String| {
        Error::refused(what, Remedy::from("look at the log of changes").operation(Operation::Log))
    };
    if log(dir)?.is_empty() {
        return Err(nothing("no change is applied here".into()));
    }
    let mut journal = Journal::open(disk, dir)?;
    let there = journal.history.records.len();
    let keep = keep.unwrap_or(there.saturating_sub(1));
    if keep >= there {
        return Err(nothing(format!("{there} changes are applied, and {keep} are to be kept")));
    }
    (keep..there).map(|_| journal.undo()).collect()
}

/// The right to change a checkpoint. One exists at a time, and while it does nobody opens the
/// checkpoint; a change that was cut off is undone before it is handed out.
pub struct Journal<'a> {
    disk: &'a dyn Disk,
    folder: PathBuf,
    history: History,
    _lock: Lock,
}

/// The files of a change, open for writing, by name.
type Files<'a> = BTreeMap<String, Handle<'a>>;

/// Makes the new bytes of place i from its original ones.
pub type Fill<'a> = dyn FnMut(usize, &[u8]) -> Result<Vec<u8>> + 'a;

impl<'a> Journal<'a> {
    /// Takes the lock and undoes what was cut off.
    pub fn open(disk: &'a dyn Disk, dir: &Path) -> Result<Journal<'a>> {
        let folder = folder(dir)?;
        if !folder.exists() {
            disk.create_dir(&folder).map_err(|e| Error::io(&folder, "create", e))?;
            sync_dir(disk, dir)?;
        }
        let lock = Lock::exclusive(&folder)?;
        let history = History { dir: dir.to_path_buf(), records: Vec::new() };
        let mut journal = Journal { disk, folder, history, _lock: lock };
        journal.recover(None)?;
        Ok(journal)
    }

    /// What was changed so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Applies a change: `fill` makes the new bytes of place i from its original ones (those of
    /// [`History::original`]). Places are whole tensors, in pieces that fit in memory.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; the change is then undone already, or will be when the checkpoint is
    /// opened next.
    ///
    /// # Panics
    ///
    /// Where `fill` makes another number of bytes than the place holds.
    pub fn apply(&mut self, patch: &Patch, places: Vec<Place>, fill: &mut Fill) -> Result<Entry> {
        let number = 1 + self.history.entries().last().map_or(0, |e| e.number);
        let done = self.try_apply(number, patch, places, fill);
        if done.is_err() {
            // Should this fail too, the record is still there for the next who opens.
            let _ = self.recover(Some(number));
        }
        done
    }

    fn try_apply(
        &mut self,
        number: u32,
        patch: &Patch,
        places: Vec<Place>,
        fill: &mut Fill,
    ) -> Result<Entry> {
        let files = self.files(places.iter().map(|p| p.file.as_str()))?;
        let known = files.iter().map(|(name, file)| known(name, file)).collect::<Result<_>>()?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let entry = Entry {
            number,
            time,
            method: patch.metadata.method.clone(),
            facts: patch.metadata.facts,
            tensors: patch.changes.iter().map(|c| c.tensor.clone()).collect(),
        };
        let head = Head { entry: entry.clone(), files: known, places };
        let mut record = self.save(&head, patch, &files)?;
        let mut new = Vec::with_capacity(head.places.len());
        for (i, place) in head.places.iter().enumerate() {
            let bytes = fill(i, &self.history.original(place)?)?;
            assert_eq!(bytes.len() as u64, place.len, "Journal::apply: new bytes of place {i}");
            files[&place.file].write(&bytes, place.offset)?;
            new.push(checksum(&bytes));
        }
        files.values().try_for_each(Handle::sync)?;
        record.commit(self.disk, &new)?;
        self.history.records.push(record);
        Ok(entry)
    }

    /// Steps 1 and 2 of apply.
    fn save(&self, head: &Head, patch: &Patch, files: &Files) -> Result<Record> {
        let number = head.entry.number;
        let path = patch_path(&self.folder, number);
        patch.check(&path)?;
        let copy = Handle::create(self.disk, &path)?;
        let mut out = BufWriter::new(copy.stream());
        let written = patch.stream(&mut out).and_then(|()| out.flush());
        written.map_err(|e| Error::io(&path, "write", e))?;
        drop(out);
        copy.sync()?;
        let partial = self.folder.join(format!("{number:04}.partial"));
        Record::write(self.disk, &partial, head, &mut |p| read(&files[&p.file], p))?;
        let path = self.folder.join(format!("{number:04}.journal"));
        self.disk.rename(&partial, &path).map_err(|e| Error::io(&partial, "rename", e))?;
        sync_dir(self.disk, &self.folder)?;
        Record::read(&path)
    }

    /// Undoes the newest change.
    ///
    /// # Errors
    ///
    /// No change; bytes that are not those the change wrote (something else has written the file
    /// since); a damaged record; files that cannot be written. Nothing has happened then.
    pub fn undo(&mut self) -> Result<Entry> {
        let Some(record) = self.history.records.last() else {
            let remedy = Remedy::from("look at the log of changes").operation(Operation::Log);
            return Err(Error::refused("no change is applied here", remedy));
        };
        let files = self.files(record.head().files.iter().map(|f| f.file.as_str()))?;
        for (i, place) in record.head().places.iter().enumerate() {
            record.old(i)?;
            if !record.wrote(i, &read(&files[&place.file], place)?)? {
                let number = record.head().entry.number;
                let what =
                    format!("is not as change {number} left it: {place:?} was written since");
                let remedy = "restore the file from a copy, then remove the folder .incise";
                return Err(Error::input(files[&place.file].path(), "data", what, remedy));
            }
        }
        let (record, entry) = (record.clone(), record.head().entry.clone());
        let done = self.restore(record, &files);
        // Removes the patch; finishes an undo that failed on the way, if the failure has passed.
        let recovered = self.recover(None);
        match self.history.entries().all(|e| e.number != entry.number) {
            true => Ok(entry),
            false => Err(done.err().or(recovered.err()).expect("one of the two failed")),
        }
    }

    /// Undoes records that are not committed and the one called `failed`, and removes what was left
    /// lying about.
    fn recover(&mut self, failed: Option<u32>) -> Result<()> {
        self.history = History::read(&self.history.dir)?;
        let mut kept = Vec::new();
        for record in self.history.records.iter().rev() {
            let number = record.head().entry.number;
            if record.state() == State::Committed && failed != Some(number) {
                kept.push(record.clone());
                continue;
            }
            let files = self.files(record.head().files.iter().map(|f| f.file.as_str()));
            self.restore(record.clone(), &files?)?;
        }
        kept.reverse();
        self.history.records = kept;
        let kept: Vec<PathBuf> = self
            .history
            .entries()
            .flat_map(|e| {
                [journal_path(&self.folder, e.number), patch_path(&self.folder, e.number)]
            })
            .collect();
        for path in files(&self.folder)? {
            let ours = [".journal", ".partial", ".patch.safetensors"];
            let name = path.to_string_lossy();
            if ours.iter().any(|end| name.ends_with(end)) && !kept.contains(&path) {
                self.disk.remove(&path).map_err(|e| Error::io(&path, "remove", e))?;
            }
        }
        Ok(())
    }

    /// Undo, from its first step for a committed record, else from the second. The patch is left
    /// to [`Journal::recover`]: a power failure may have taken it already.
    fn restore(&self, mut record: Record, files: &Files) -> Result<()> {
        for was in &record.head().files {
            let now = known(&was.file, &files[&was.file])?;
            if now != *was {
                let what = "is another file than the one a change was cut off in";
                let remedy = "if it is whole, remove the folder .incise beside it";
                return Err(Error::input(files[&was.file].path(), "header", what, remedy));
            }
        }
        for place in &record.head().places {
            if place.offset < data(&files[&place.file])? {
                let what = format!("{place:?} begins inside the header");
                return Err(Error::input(record.path(), "places", what, REMEDY));
            }
        }
        if record.state() == State::Committed {
            record.start_undo(self.disk)?;
        }
        for (i, place) in record.head().places.iter().enumerate() {
            files[&place.file].write(&record.old(i)?, place.offset)?;
        }
        files.values().try_for_each(Handle::sync)?;
        let path = record.path();
        self.disk.remove(path).map_err(|e| Error::io(path, "remove", e))?;
        sync_dir(self.disk, &self.folder)
    }

    /// Opens files of the checkpoint for writing, once each.
    fn files<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Files<'a>> {
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

/// The journal's folder of a checkpoint, there or not. A link to another's would undo here what
/// was changed there.
fn folder(dir: &Path) -> Result<PathBuf> {
    let folder = dir.join(FOLDER);
    match fs::symlink_metadata(&folder) {
        Ok(metadata) if !metadata.is_dir() => {
            let remedy = "remove it: a model's changes are kept beside its own files";
            Err(Error::input(&folder, "journal", "is no folder of its own", remedy))
        }
        _ => Ok(folder),
    }
}

/// Refuses files whose bytes belong to others too, and files marked as not to be written.
fn may_write(path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path).map_err(|e| Error::io(path, "look at", e))?;
    let what = if metadata.is_symlink() {
        "is a symbolic link, so others may use the same bytes"
    } else if metadata.nlink() > 1 {
        "has several names (hard links), so others may use the same bytes"
    } else if metadata.permissions().readonly() {
        let remedy = "make it writable, or write a new folder";
        return Err(Error::input(path, "file", "is read-only", elsewhere(remedy)));
    } else {
        return Ok(());
    };
    Err(Error::input(path, "file", what, elsewhere("write a new folder")))
}

fn elsewhere(text: &str) -> Remedy {
    Remedy::from(text).option("output", None)
}

/// The first byte behind a file's header.
fn data(file: &Handle) -> Result<u64> {
    let mut word = [0; 8];
    file.read(&mut word, 0)?;
    Ok(8 + u64::from_le_bytes(word).min(header::LONGEST).min(file.size()? - 8))
}

fn known(name: &str, file: &Handle) -> Result<Known> {
    let mut bytes = vec![0; (data(file)? - 8) as usize];
    file.read(&mut bytes, 8)?;
    let header = blake3::hash(&bytes).to_hex().to_string();
    Ok(Known { file: name.to_owned(), len: file.size()?, header })
}

fn patch_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:04}.patch.safetensors"))
}

fn journal_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:04}.journal"))
}

/// The files in a folder, sorted; none where there is no folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let list = || fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>();
    let mut paths: Vec<PathBuf> = list().map_err(|e| Error::io(folder, "list", e))?;
    paths.sort();
    Ok(paths)
}

fn sync_dir(disk: &dyn Disk, path: &Path) -> Result<()> {
    disk.sync_dir(path).map_err(|e| Error::io(path, "sync", e))
}
