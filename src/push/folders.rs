//! What a server reads of an edit, in folders that it sees under the same path.
//!
//! ```text
//! DIR/VERSION/after           model.safetensors: the changed tensors
//!             before          the same tensors as they were
//!             adapter-HASH    adapter_config.json, adapter_model.safetensors
//!             adapter-HASH.gguf
//!             whole           the checkpoint with the edit
//! ```
//!
//! VERSION is a hash of the patch, HASH of the adapter's rank and base, so a folder never changes:
//! it appears whole, by its rename.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::{fs, io};

use crate::base::file::make_folder;
use crate::base::units::percent;
use crate::base::{Error, Progress, Result};
use crate::edit::apply::{self, PatchSide};
use crate::edit::export::adapter::{self, Adapter};
use crate::edit::export::gguf;
use crate::ops::proof;
use crate::store::place::check_outside;
use crate::store::{Checkpoint, Fingerprint, Patch, Shard, tensor_fingerprint, write};
use crate::tensor::Device;

/// Something that is written for a server to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFile {
    /// The changed tensors, and in a folder of their own as they were.
    Tensors,
    /// The whole checkpoint with the edit.
    Checkpoint,
    /// A LoRA adapter.
    Adapter,
    /// The same for llama.cpp.
    AdapterGguf,
}

/// The checkpoint and the patch, and where folders for the server are.
pub struct PushSource<'a> {
    /// The checkpoint that the server was started with, or a copy.
    pub model: &'a Path,
    /// The patch for it.
    pub patch: &'a Patch,
    /// DIR.
    pub dir: &'a Path,
    /// What the adapter names as its base, where that is not the checkpoint's path.
    pub base: Option<&'a str>,
    /// The adapter's rank, where it is not the smallest that holds the patch.
    pub rank: Option<usize>,
    /// Where the tensors are computed.
    pub device: &'a Device,
}

/// In which form a server takes an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushForm {
    /// Its weights change.
    Weights,
    /// An adapter of this name is added to them.
    Adapter(String),
}

/// The folders of one edit.
pub struct Folders {
    /// VERSION.
    pub version: String,
    dir: PathBuf,
    base: String,
    adapter: String,
}

impl Folders {
    /// Of a patch, under DIR, which is made where it is not there.
    ///
    /// # Errors
    ///
    /// A folder that cannot be made, or that is in the checkpoint's.
    pub fn new(s: &PushSource) -> Result<Folders> {
        check_outside(s.dir, &[s.model])?;
        let version = short(&[&s.patch.to_bytes()?]);
        let base = s.base.map_or_else(|| adapter::name_of(s.model), str::to_owned);
        let rank = s.rank.unwrap_or_default().to_string();
        let adapter = format!("adapter-{}", short(&[base.as_bytes(), rank.as_bytes()]));
        make_folder(s.dir)?;
        // A path that the server would take from a folder of its own may end it.
        let dir = s.dir.canonicalize().map_err(|e| Error::io(s.dir, "find", e))?.join(&version);
        Ok(Folders { version, dir, base, adapter })
    }

    /// Where the tensors of a side are.
    pub fn tensors(&self, side: PatchSide) -> PathBuf {
        self.dir.join(if side == PatchSide::After { AFTER } else { BEFORE })
    }

    /// Where the whole checkpoint is.
    pub fn checkpoint(&self) -> PathBuf {
        self.dir.join("whole")
    }

    /// Where the adapter is.
    pub fn adapter(&self) -> PathBuf {
        self.dir.join(&self.adapter)
    }

    /// Where llama.cpp's adapter is.
    pub fn adapter_gguf(&self) -> PathBuf {
        self.dir.join(format!("{}.gguf", self.adapter))
    }

    /// Remembers what a server called its weights before.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn remember(&self, url: &str, version: &str) -> Result<()> {
        write::whole(&self.called_file(url), version.as_bytes())
    }

    /// What a server called its weights before. A server may have several URLs: one that was not
    /// pushed to has the name that all others have, if that is one.
    ///
    /// # Errors
    ///
    /// Files that cannot be read.
    pub fn called(&self, url: &str) -> Result<Option<String>> {
        let read = |file: &Path| fs::read_to_string(file).map_err(|e| Error::io(file, "read", e));
        let own = self.called_file(url);
        if own.exists() {
            return read(&own).map(Some);
        }
        let failed = |e| Error::io(&self.dir, "list", e);
        let mut names = BTreeSet::new();
        for file in fs::read_dir(&self.dir).map_err(failed)? {
            let file = file.map_err(failed)?;
            if file.file_name().to_string_lossy().starts_with(CALLED) {
                names.insert(read(&file.path())?);
            }
        }
        Ok(names.pop_first().filter(|_| names.is_empty()))
    }

    fn called_file(&self, url: &str) -> PathBuf {
        self.dir.join(format!("{CALLED}{}", short(&[url.as_bytes()])))
    }

    /// Whether this edit is one upon another, of which DIR has the tensors under that version: what
    /// both change was, before this one, as the other left it. None where DIR has no such edit.
    ///
    /// # Errors
    ///
    /// Files that cannot be read.
    pub fn is_upon(&self, other: &str) -> Result<Option<bool>> {
        let theirs = self.dir.with_file_name(other).join(AFTER).join(MODEL);
        if !write::is_name(other) || !theirs.is_file() {
            return Ok(None);
        }
        let (theirs, ours) = (Shard::open(&theirs)?, Shard::open(&self.before_file())?);
        let mut entries = theirs.header().tensors.iter();
        Ok(Some(entries.all(|(name, entry)| {
            let before = ours.header().tensors.get(name);
            before.is_none_or(|b| *ours.bytes(&b.range) == *theirs.bytes(&entry.range))
        })))
    }

    fn before_file(&self) -> PathBuf {
        self.tensors(PatchSide::Before).join(MODEL)
    }

    /// Writes what a server reads to come to a side; what is there is held to what would be
    /// written.
    /// To come back from an edit, what was written then serves.
    ///
    /// # Errors
    ///
    /// A patch for other weights; something else in its place; what the system refuses.
    pub fn write(
        &self,
        file: ServerFile,
        side: PatchSide,
        s: &PushSource,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (model, device, patches) = (s.model, s.device, from_ref(s.patch));
        match (file, side) {
            (ServerFile::Tensors, PatchSide::Before) if self.before_file().exists() => {
                self.check_before(s.patch)
            }
            (ServerFile::Tensors, _) => {
                // What takes it back first: with the other alone nobody could.
                for side in [PatchSide::Before, PatchSide::After] {
                    settle(&self.tensors(side), &|place| {
                        let to = apply::to_file_in_folder;
                        to(model, patches, side, place, device, progress).map(drop)
                    })?;
                }
                Ok(())
            }
            (ServerFile::Checkpoint, _) => {
                apply::check(model, patches, device, progress)?;
                let place = self.checkpoint();
                if place.exists() {
                    return self.check_whole(s, progress);
                }
                apply::to_folder(model, patches, &place, device, progress).map(drop)
            }
            (ServerFile::Adapter, PatchSide::Before) => Ok(()),
            (ServerFile::Adapter, PatchSide::After) => {
                apply::check(model, patches, device, progress)?;
                settle(&self.adapter(), &|place| {
                    let base = Some(&*self.base);
                    warn(&adapter::write(s.patch, s.rank, base, place, progress)?, progress);
                    Ok(())
                })
            }
            (ServerFile::AdapterGguf, _) => {
                apply::check(model, patches, device, progress)?;
                make_folder(&self.dir)?;
                let adapter = Adapter::of(s.patch, s.rank, progress)?;
                warn(&adapter, progress);
                settle(&self.adapter_gguf(), &|file| gguf::write(&adapter, model, file))
            }
        }
    }

    /// Holds what takes an edit back to the fingerprints of the patch.
    fn check_before(&self, patch: &Patch) -> Result<()> {
        let file = Shard::open(&self.before_file())?;
        for change in &patch.changes {
            let entry = file.header().tensors.get(&change.tensor);
            let found = entry.map(|entry| tensor_fingerprint(&file.bytes(&entry.range)));
            if found.as_ref() != Some(&change.fingerprint) {
                return Err(other(&self.tensors(PatchSide::Before)));
            }
        }
        Ok(())
    }

    /// Holds the changed tensors of a whole checkpoint to those that would be written.
    fn check_whole(&self, s: &PushSource, progress: &dyn Progress) -> Result<()> {
        let place = self.checkpoint();
        let by = &proof::start(s.device.now(), 0, progress)?[0];
        let patches = from_ref(s.patch);
        let (made, _) = apply::to_memory(s.model, patches, PatchSide::After, by, progress)?;
        let whole = Checkpoint::open(&place)?;
        for tensor in made {
            let found = whole.entry(&tensor.name);
            if found.is_none_or(|(shard, entry)| *shard.bytes(&entry.range) != *tensor.bytes) {
                return Err(other(&place));
            }
        }
        Ok(())
    }
}

const AFTER: &str = "after";
const BEFORE: &str = "before";
const CALLED: &str = "called-";
const MODEL: &str = "model.safetensors";

/// A short name for bytes.
fn short(parts: &[&[u8]]) -> String {
    let mut hash = Fingerprint::default();
    parts.iter().for_each(|part| hash.field(part));
    hash.hex()[..16].to_owned()
}

/// Says what an adapter lacks of its patch.
fn warn(adapter: &Adapter, progress: &dyn Progress) {
    for m in adapter.modules.iter().filter(|m| m.lost > 0.0) {
        let (r, lost) = (adapter.rank, percent(m.lost));
        progress.warn(&format!(
            "{}: rank {} was cut to {r}, and the adapter lacks {lost} of the change; push the \
             weights, or an adapter of a larger rank",
            m.tensor, m.rank
        ));
    }
}

fn other(place: &Path) -> Error {
    let what = "is not what this patch comes to";
    Error::input(place, "contents", what, "remove it, or name another folder")
}

/// Writes a folder or a file in a place where there is none, and compares it with what is there.
fn settle(place: &Path, write: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    if !place.exists() {
        return write(place);
    }
    let failed = |e| Error::io(place, "compare", e);
    let beside = tempfile::tempdir_in(write::folder(place)).map_err(failed)?;
    let again = beside.path().join("again");
    write(&again)?;
    if same(place, &again).map_err(failed)? {
        return Ok(());
    }
    Err(other(place))
}

/// Whether two files, or the files of two folders, have the same bytes.
fn same(a: &Path, b: &Path) -> io::Result<bool> {
    if !a.is_dir() || !b.is_dir() {
        return Ok(a.is_file() && b.is_file() && fs::read(a)? == fs::read(b)?);
    }
    let names = |dir: &Path| -> io::Result<BTreeSet<OsString>> {
        fs::read_dir(dir)?.map(|file| Ok(file?.file_name())).collect()
    };
    let all = names(a)?;
    if all != names(b)? {
        return Ok(false);
    }
    for name in all {
        if !same(&a.join(&name), &b.join(&name))? {
            return Ok(false);
        }
    }
    Ok(true)
}
