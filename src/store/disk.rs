//! Everything a journal does to files, as one small trait, so that a test can make any step fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result};

/// Operations on files. The path is the file's, for errors and for tests; [`Os`] performs them.
pub trait Disk: Sync {
    /// Makes a folder.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that must not exist, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Overwrites bytes from `at` on, growing the file where it ends sooner.
    fn write(&self, path: &Path, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes what was written to the file last through a power failure.
    fn sync(&self, path: &Path, file: &File) -> io::Result<()>;
    /// The same for the names in a folder.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name in its folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's files.
pub struct Os;

impl Disk for Os {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }

    fn write(&self, _: &Path, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync(&self, _: &Path, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// An open file that knows its path, for errors, and the disk it is on.
pub struct Handle<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    file: File,
}

impl<'a> Handle<'a> {
    /// Makes a file that must not exist.
    pub fn create(disk: &'a dyn Disk, path: &Path) -> Result<Handle<'a>> {
        let file = disk.create(path).map_err(|e| Error::io(path, "create", e))?;
        Ok(Handle { disk, path: path.to_path_buf(), file })
    }

    /// Opens a file, to be written where `write`.
    pub fn open(disk: &'a dyn Disk, path: &Path, write: bool) -> Result<Handle<'a>> {
        let file = OpenOptions::new().read(true).write(write).open(path);
        let action = if write { "write to" } else { "open" };
        let file = file.map_err(|e| Error::io(path, action, e))?;
        Ok(Handle { disk, path: path.to_path_buf(), file })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn size(&self) -> Result<u64> {
        let metadata = self.file.metadata().map_err(|e| Error::io(&self.path, "look at", e))?;
        Ok(metadata.len())
    }

    /// Fills `out` with the bytes from `at` on.
    pub fn read(&self, out: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(out, at).map_err(|e| Error::io(&self.path, "read", e))
    }

    /// Overwrites the bytes from `at` on.
    pub fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let written = self.disk.write(&self.path, &self.file, bytes, at);
        written.map_err(|e| Error::io(&self.path, "write", e))
    }

    /// Makes what was written last.
    pub fn sync(&self) -> Result<()> {
        self.disk.sync(&self.path, &self.file).map_err(|e| Error::io(&self.path, "sync", e))
    }

    /// Writes one after another, from the file's first byte on.
    pub fn writer(&self) -> HandleWriter<'_> {
        HandleWriter { handle: self, at: 0 }
    }
}

/// Writes one after another. See [`Handle::writer`].
pub struct HandleWriter<'a> {
    handle: &'a Handle<'a>,
    at: u64,
}

impl Write for HandleWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Handle { disk, path, file } = self.handle;
        disk.write(path, file, bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
