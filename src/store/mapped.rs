//! One mapped file. The only `unsafe` of this floor is the mapping itself.

use std::fs::{self, File, Metadata};
use std::ops::{Deref, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;

use crate::base::{Error, Result};

/// One mapped file of weights, in whatever format.
pub struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
    stamp: Stamp,
}

/// What a file looked like when it was opened: its length in bytes and when it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    len: u64,
    modified: Option<SystemTime>, // None where the file system keeps no times
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { len: metadata.len(), modified: metadata.modified().ok() }
    }

    /// An error unless the file at `path` still looks so.
    pub fn check(self, path: &Path) -> Result<()> {
        let now = fs::metadata(path).map_err(|e| Error::io(path, "look at", e))?;
        if Stamp::of(&now) == self {
            return Ok(());
        }
        let what = "the file changed since it was opened";
        Err(Error::input(path, "length and time", what, "let its writer finish and start again"))
    }
}

impl MappedFile {
    /// Maps the file; no byte is touched.
    ///
    /// # Errors
    ///
    /// What is no regular file, or cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Arc<MappedFile>> {
        let metadata = fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
        if !metadata.is_file() {
            let remedy = "replace it by the file of weights";
            return Err(Error::input(path, "file", "is a folder, a pipe or a device", remedy));
        }
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, "look at", e))?;
        // SAFETY: the map is valid while the file keeps its length and is read as plain bytes, of
        // which every pattern is a value. We never truncate a file (edits keep every length, new
        // files appear by rename), and a writer of ours refuses to start while a reader opens and
        // the other way round. What is left is another program that truncates the file under us:
        // the system then ends this process with SIGBUS, as for every program that maps files. One
        // that overwrites it makes us read its bytes; `unchanged` detects it.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        let stamp = Stamp::of(&metadata);
        Ok(Arc::new(MappedFile { path: path.to_path_buf(), file, map, stamp }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file looked like when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// An error if another program has written the file since it was opened.
    pub fn unchanged(&self) -> Result<()> {
        self.stamp.check(&self.path)
    }

    /// All of its bytes.
    pub fn all(&self) -> &[u8] {
        &self.map
    }

    /// Some of its bytes, which stay mapped while the handle lives.
    ///
    /// # Panics
    ///
    /// Where `range` is not inside the file.
    pub fn bytes(self: &Arc<MappedFile>, range: &Range<u64>) -> Bytes {
        let range = range.start as usize..range.end as usize;
        assert!(range.end <= self.map.len(), "MappedFile: bytes outside the file");
        Bytes { file: self.clone(), range }
    }
}

/// Bytes of a mapped file. Cloning shares them.
#[derive(Clone)]
pub struct Bytes {
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl Bytes {
    /// A copy of some of them, read by a call and not through the map. Touching a mapped page makes
    /// the system read what surrounds it, 8 MB on some disks: good for a matrix, slow for a
    /// thousand small pieces.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    ///
    /// # Panics
    ///
    /// Where `range` is not inside these bytes.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u8>> {
        assert!(range.end <= self.range.len(), "Bytes: read outside of them");
        let mut piece = vec![0; range.len()];
        let at = (self.range.start + range.start) as u64;
        let read = self.file.file.read_exact_at(&mut piece, at);
        read.map_err(|e| Error::io(&self.file.path, "read", e))?;
        Ok(piece)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.file.map[self.range.clone()]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
