//! Running text for statistics, read as it is needed; `text_file.rs` says what a file may be.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::text_file::TextFile;
use crate::base::file::open_file;
use crate::base::{Error, Result};

/// Text files, in the order in which they are read.
#[derive(Clone, Debug)]
pub struct Corpus {
    files: Vec<PathBuf>,
}

impl Corpus {
    /// The corpus of these files.
    ///
    /// # Errors
    /// No file, or one that cannot be opened or is of a kind that is not read.
    pub fn open(files: &[impl AsRef<Path>]) -> Result<Self> {
        let files: Vec<PathBuf> = files.iter().map(|file| file.as_ref().to_path_buf()).collect();
        if files.is_empty() {
            return Err(Error::refused("the corpus has no file", "name a text file"));
        }
        for file in &files {
            if file.is_dir() {
                let remedy = "name the text files in it";
                return Err(Error::input(file, "corpus", "is a folder", remedy));
            }
            TextFile::open(file)?;
        }
        Ok(Corpus { files })
    }

    /// The documents: each line that is not blank, without its line ending, or each `text` of a
    /// JSON file. Holds one line at a time, of a JSON array all.
    pub fn documents(&self) -> Documents<'_> {
        Documents { files: self.files.iter(), reading: None }
    }

    /// The blake3 hash, in hexadecimal, of all bytes in order as the files have them, compressed
    /// ones too: as `cat FILES | b3sum` gives it, but that a file before the last counts as if it
    /// ended its last line.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn hash(&self) -> Result<String> {
        let mut hash = blake3::Hasher::new();
        for (i, path) in self.files.iter().enumerate() {
            let mut file = open_file(path)?;
            let failed = |e| Error::io(path, "read", e);
            hash.update_reader(&mut file).map_err(failed)?;
            // Else two lines of two files would hash like one.
            if i + 1 < self.files.len() && file.seek(SeekFrom::End(-1)).is_ok() {
                let mut last = [0];
                file.read_exact(&mut last).map_err(failed)?;
                if last != *b"\n" {
                    hash.update(b"\n");
                }
            }
        }
        Ok(hash.finalize().to_hex().to_string())
    }
}

/// The documents of a corpus; ends after the first error.
pub struct Documents<'c> {
    files: std::slice::Iter<'c, PathBuf>,
    reading: Option<TextFile<'c>>,
}

impl Iterator for Documents<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.reading.is_none() {
                let path = self.files.next()?;
                match TextFile::open(path) {
                    Ok(file) => self.reading = Some(file),
                    Err(e) => return Some(Err(self.stop(e))),
                }
            }
            match self.reading.as_mut()?.document() {
                Ok(Some(text)) => return Some(Ok(text)),
                Ok(None) => self.reading = None,
                Err(e) => return Some(Err(self.stop(e))),
            }
        }
    }
}

impl Documents<'_> {
    fn stop(&mut self, e: Error) -> Error {
        self.reading = None;
        self.files = [].iter();
        e
    }
}
