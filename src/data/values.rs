//! The JSON values of a file, one after the other: JSON Lines, or one JSON array, of which no more
//! than a value is held parsed.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Deserializer, Value};

use crate::base::json::{UniqueKeys, nan_as_null};
use crate::base::{Error, Result};

/// A file's values, and how far they are read.
pub(super) struct Values<'a> {
    file: PathBuf,
    bytes: Cow<'a, [u8]>,
    is_array: bool,
    at: usize,
    /// The line of `at`, from 1.
    line: usize,
    /// How many were read.
    pub count: usize,
}

/// A value, or what is wrong with it, and where it is: "line 3", or "record 12" of an array.
pub(super) type Placed = (String, Result<Value>);

impl<'a> Values<'a> {
    /// The values in a file's contents.
    ///
    /// # Errors
    /// What is compressed.
    pub fn new(file: &Path, bytes: Cow<'a, [u8]>) -> Result<Values<'a>> {
        if bytes.starts_with(b"\x1f\x8b") {
            let remedy = "decompress it first, as gunzip does";
            return Err(Error::input(file, "line 1", "is compressed by gzip", remedy));
        }
        let bytes = match nan_as_null(&bytes) {
            Cow::Owned(other) => Cow::Owned(other),
            Cow::Borrowed(_) => bytes,
        };
        let at = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let mut values =
            Values { file: file.to_owned(), bytes, is_array: false, at, line: 1, count: 0 };
        values.skip_blanks();
        values.is_array = values.bytes[values.at..].starts_with(b"[");
        values.at += usize::from(values.is_array);
        Ok(values)
    }

    /// Reads an array to its end, to see that it is one: what follows a mistake in it cannot be
    /// read. Returns whether there is any value.
    ///
    /// # Errors
    /// An array that is not JSON.
    pub fn check(&self) -> Result<bool> {
        let (file, bytes) = (self.file.clone(), Cow::Borrowed(&*self.bytes));
        let mut copy = Values { file, bytes, ..*self };
        while copy.next()?.is_some() && copy.is_array {}
        Ok(copy.count > 0)
    }

    /// The next value; `None` at the end.
    ///
    /// # Errors
    /// An array that is not JSON. (JSON Lines go on at the next line that begins a record.)
    pub fn next(&mut self) -> Result<Option<Placed>> {
        self.skip_blanks();
        if self.is_array && !self.enter()? {
            return Ok(None);
        }
        let rest = &self.bytes[self.at..];
        let mut stream = Deserializer::from_slice(rest).into_iter();
        let (position, value, end) = match stream.next() {
            None => return Ok(None),
            Some(Ok(UniqueKeys(value))) if self.is_array => {
                (format!("record {}", self.count), Ok(value), stream.byte_offset())
            }
            Some(Err(e)) if self.is_array => return Err(self.not_json(&e)),
            Some(Ok(UniqueKeys(value))) => {
                (format!("line {}", self.line), Ok(value), stream.byte_offset())
            }
            Some(Err(e)) => {
                (format!("line {}", self.line), Err(self.not_json(&e)), next_record(rest))
            }
        };
        self.count += 1;
        self.skip(end);
        Ok(Some((position, value)))
    }

    /// Goes to an array's next item, of which one has to follow a comma; `false` at its end, after
    /// which nothing may come.
    fn enter(&mut self) -> Result<bool> {
        match (self.bytes.get(self.at), self.count) {
            (Some(b']'), _) => {
                self.skip(1);
                self.skip_blanks();
                match self.bytes.get(self.at) {
                    None => {
                        self.is_array = false; // The next look finds nothing.
                        Ok(false)
                    }
                    Some(_) => Err(self.wrong("trailing characters")),
                }
            }
            (Some(b','), 1..) => {
                self.skip(1);
                self.skip_blanks();
                match self.bytes.get(self.at) {
                    Some(b']') => Err(self.wrong("trailing comma")),
                    None => Err(self.wrong("EOF while parsing a list")),
                    Some(_) => Ok(true),
                }
            }
            (None, _) => Err(self.wrong("EOF while parsing a list")),
            (Some(_), 0) => Ok(true),
            (Some(_), _) => Err(self.wrong("expected `,` or `]`")),
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.line += lines_in(&self.bytes[self.at..self.at + bytes]);
        self.at += bytes;
    }

    fn skip_blanks(&mut self) {
        let rest = &self.bytes[self.at..];
        self.skip(rest.len() - rest.trim_ascii_start().len());
    }

    /// How many bytes of the line are before `at`.
    fn column(&self) -> usize {
        self.bytes[..self.at].iter().rev().take_while(|&&b| b != b'\n').count()
    }

    /// The error for a value that begins at `at`.
    fn not_json(&self, e: &serde_json::Error) -> Error {
        // A line break inside a string is seen where the next line begins.
        let line = self.line + e.line() - 1 - usize::from(e.column() == 0 && !e.is_eof());
        let column = e.column() + if e.line() == 1 { self.column() } else { 0 };
        let mut what = e.to_string();
        let place = format!(" at line {} column {}", e.line(), e.column());
        what.truncate(what.trim_end_matches(&place).len());
        self.error(&what, line, column)
    }

    /// The error for what is at `at`.
    fn wrong(&self, what: &str) -> Error {
        self.error(what, self.line, self.column() + usize::from(self.at < self.bytes.len()))
    }

    fn error(&self, what: &str, line: usize, column: usize) -> Error {
        let what = format!("is not JSON: {what} at column {column}");
        let remedy = "write JSON Lines or one JSON array, in UTF-8";
        Error::input(&self.file, format!("line {line}"), what, remedy)
    }
}

/// Where the next record begins, after the first line: at a line that is an object, or begins with
/// one in its first column.
fn next_record(bytes: &[u8]) -> usize {
    let starts = bytes.iter().enumerate().filter(|&(_, &b)| b == b'\n').map(|(i, _)| i + 1);
    let is_object = |line| serde_json::from_slice(line).is_ok_and(|UniqueKeys(v)| v.is_object());
    let begins = |&at: &usize| {
        let line = bytes[at..].split(|&b| b == b'\n').next().unwrap_or_default();
        line.starts_with(b"{") || is_object(line)
    };
    starts.into_iter().find(begins).unwrap_or(bytes.len())
}

fn lines_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == b'\n').count()
}
