//! Running text for statistics: one document a line, read as it is needed.
//!
//! A line of a `.jsonl` file is an object whose `text` is the document.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

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
    /// No file, or one that cannot be opened.
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
            open(file)?;
        }
        Ok(Corpus { files })
    }

    /// The documents: each line that is not blank, without its line ending. Holds one line at a
    /// time.
    pub fn documents(&self) -> Documents<'_> {
        Documents { files: self.files.iter(), reading: None }
    }

    /// The blake3 hash, in hexadecimal, of all bytes in order, as `cat FILES | b3sum` gives it; a
    /// file that does not end its last line counts as if it did.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn hash(&self) -> Result<String> {
        let mut hash = blake3::Hasher::new();
        for (i, path) in self.files.iter().enumerate() {
            let mut file = open(path)?;
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
    reading: Option<Lines<'c>>,
}

impl Iterator for Documents<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.reading.is_none() {
                let path = self.files.next()?;
                match open(path) {
                    Ok(file) => {
                        self.reading = Some(Lines { path, file: BufReader::new(file), number: 0 });
                    }
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

struct Lines<'c> {
    path: &'c Path,
    file: BufReader<File>,
    number: u64,
}

impl Lines<'_> {
    fn document(&mut self) -> Result<Option<String>> {
        loop {
            let mut line = vec![];
            let n = self.file.read_until(b'\n', &mut line);
            if n.map_err(|e| Error::io(self.path, "read", e))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let mut line = line.strip_suffix(b"\n").unwrap_or(&line);
            line = line.strip_suffix(b"\r").unwrap_or(line);
            if self.number == 1 {
                line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
            }
            let text = std::str::from_utf8(line).map_err(|e| {
                let what = format!("is not UTF-8 from byte {} on", e.valid_up_to());
                self.wrong(what, "convert the file, for instance with iconv -t UTF-8")
            })?;
            if text.trim().is_empty() {
                continue;
            }
            let jsonl = self.path.extension().is_some_and(|extension| extension == "jsonl");
            let document = if jsonl { self.text_of(text)? } else { text.to_string() };
            if !document.trim().is_empty() {
                return Ok(Some(document));
            }
        }
    }

    fn text_of(&self, line: &str) -> Result<String> {
        let remedy = r#"write {"text": "…"} on every line, or plain text in a .txt file"#;
        let value: Value = serde_json::from_str(line)
            .map_err(|e| self.wrong(format!("is not JSON: {e}"), remedy))?;
        match &value["text"] {
            Value::String(text) => Ok(text.clone()),
            _ => Err(self.wrong("has no string \"text\"".to_string(), remedy)),
        }
    }

    fn wrong(&self, what: String, remedy: &str) -> Error {
        Error::input(self.path, format!("line {}", self.number), what, remedy)
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io(path, "open", e))
}
