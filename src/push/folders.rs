//! What a server reads of an edit, in folders that it sees under the same path.
//!
//! ```text
//! DIR/VERSION/after    model.safetensors: the changed tensors
//!             before   the same tensors as they were
//!             adapter  adapter_config.json, adapter_model.safetensors
//!             adapter.gguf
//!             whole    the checkpoint with the edit
//! ```
//!
//! VERSION is a hash of the patch, so a folder never changes: it appears whole, by its rename.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::{fs, io};

use crate::base::{Error, Progress, Result};
use crate::edit::apply::{self, PatchSide};
use crate::edit::export::adapter::{self, Adapter};
use crate::edit::export::gguf;
use crate::store::{self, Checkpoint, Fingerprint, Patch};
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
}

impl Folders {
    /// Of a patch, under DIR, which is made where it is not there.
    ///
    /// # Errors
    ///
    /// A folder that cannot be made.
    pub fn new(dir: &Path, patch: &Patch) -> Result<Folders> {
        let mut bytes = Vec::new();
        let failed = |e| Error::io(dir, "create", e);
        patch.write_to(&mut bytes).map_err(failed)?;
        let mut hash = Fingerprint::default();
        hash.add(&bytes);
        let version = hash.hex()[..16].to_owned();
        fs::create_dir_all(dir).map_err(failed)?;
        // A path that the server would take from a folder of its own may end it.
        let dir = dir.canonicalize().map_err(failed)?.join(&version);
        Ok(Folders { version, dir })
    }

    /// Where the tensors of a side are.
    pub fn tensors(&self, side: PatchSide) -> PathBuf {
        self.dir.join(if side == PatchSide::After { "after" } else { "before" })
    }

    /// Where the whole checkpoint is.
    pub fn checkpoint(&self) -> PathBuf {
        self.dir.join("whole")
    }

    /// Where the adapter is.
    pub fn adapter(&self) -> PathBuf {
        self.dir.join("adapter")
    }

    /// Where llama.cpp's adapter is.
    pub fn adapter_gguf(&self) -> PathBuf {
        self.dir.join("adapter.gguf")
    }

    /// A file that remembers what a server called its weights before.
    pub fn before(&self) -> PathBuf {
        self.dir.join("version-before")
    }

    /// Writes one of them; one that is there is held to what would be written, but for a whole
    /// checkpoint, which would take as long again.
    ///
    /// # Errors
    ///
    /// A patch for other weights; something else in its place; what the system refuses.
    pub fn write(&self, file: ServerFile, s: &PushSource, progress: &dyn Progress) -> Result<()> {
        let (model, device, patches) = (s.model, s.device, from_ref(s.patch));
        let tensors = |side, place: &Path| {
            apply::to_file_in_folder(model, patches, side, place, device, progress).map(drop)
        };
        match file {
            ServerFile::Tensors => {
                // What takes it back first: with the other alone nobody could.
                for side in [PatchSide::Before, PatchSide::After] {
                    settle(&self.tensors(side), &|place| tensors(side, place))?;
                }
                Ok(())
            }
            ServerFile::Checkpoint => {
                let place = self.checkpoint();
                if place.exists() {
                    return Checkpoint::check(&place);
                }
                apply::to_folder(model, patches, &place, device, progress).map(drop)
            }
            ServerFile::Adapter => {
                apply::check(model, patches, device, progress)?;
                let path = adapter::name_of(model);
                let base = Some(s.base.unwrap_or(&path));
                settle(&self.adapter(), &|place| {
                    adapter::write(s.patch, None, base, place, progress).map(drop)
                })
            }
            ServerFile::AdapterGguf => {
                apply::check(model, patches, device, progress)?;
                fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, "create", e))?;
                let adapter = Adapter::of(s.patch, None, progress)?;
                settle(&self.adapter_gguf(), &|file| gguf::write(&adapter, model, file))
            }
        }
    }
}

/// Writes a folder or a file in a place where there is none, and compares it with what is there.
fn settle(place: &Path, write: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    if !place.exists() {
        return write(place);
    }
    let failed = |e| Error::io(place, "compare", e);
    let beside = tempfile::tempdir_in(store::write::folder(place)).map_err(failed)?;
    let again = beside.path().join("again");
    write(&again)?;
    if same(place, &again).map_err(failed)? {
        return Ok(());
    }
    let what = "is not what this patch comes to";
    Err(Error::input(place, "contents", what, "remove it, or name another folder"))
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
