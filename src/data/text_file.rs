//! One file of running text. What kind it is its content tells, not its name:
//!
//! ```text
//! text         a document a line
//! JSON Lines   its first line is an object: the document is the `text` of each line's object
//! JSON         an array of objects with `text`, or of strings; an object over several lines is
//!              refused
//! gzip         any of these, compressed
//! ```
//!
//! Names count where the content leaves it open: `.jsonl` and `.ndjson` have to be JSON Lines,
//! `.json` JSON. Other archives and tables are refused by name, for as text they would be read
//! without a word.

use std::io::{BufRead, BufReader, Cursor, Read};
use std::ops::Range;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

use crate::base::file::{check_pointer, open_file};
use crate::base::{Error, Result};

/// The largest JSON array that is read: it is parsed whole.
const MAX_ARRAY: u64 = 1 << 30;
const GZIP: &[u8] = b"\x1f\x8b";
/// The mark of UTF-8 with which some programs begin a text.
const BYTE_ORDER: &[u8] = b"\xEF\xBB\xBF";
/// Bytes that files begin with which are no text, and what they are.
const OTHERS: [(&[u8], &str); 7] = [
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
    (b"\xfd7zXZ\0", "is compressed with xz"),
    (b"BZh", "is compressed with bzip2"),
    (b"PK\x03\x04", "is a zip archive"),
    (b"PAR1", "is a Parquet table"),
    (b"ARROW1", "is an Arrow table"),
    (b"%PDF", "is a PDF document"),
];
const AS_TEXT: &str = "write its texts to a text file, a document a line, or to JSON Lines with \
                       {\"text\": \"…\"} on every line";

/// A file that is being read.
pub(super) struct TextFile<'c> {
    path: &'c Path,
    form: Form,
    number: u64, // of the line or item that was read last, from 1
}

enum Form {
    /// What was not read yet.
    Lines {
        lines: Box<dyn BufRead + Send>,
        json: bool,
    },
    Array(std::vec::IntoIter<Value>),
}

impl<'c> TextFile<'c> {
    /// Opens a file and looks what is in it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or is of a kind that is not read; broken JSON.
    pub fn open(path: &'c Path) -> Result<TextFile<'c>> {
        let mut rest = decompressed(path)?;
        let mut head = Vec::new();
        if rest.fill_buf().map_err(|e| unread(path, &e))?.starts_with(BYTE_ORDER) {
            rest.consume(BYTE_ORDER.len());
        }
        let first = next_line(path, &mut rest, &mut head)?;
        // What follows a bracket that stands alone says whether it is prose.
        let second = match &head[first.clone()] {
            b"[" | b"{" => next_line(path, &mut rest, &mut head)?,
            _ => 0..0,
        };
        let json = match Kind::of(path, &head[first], &head[second]) {
            Kind::Array => {
                let form = Form::Array(array(path, head, rest)?.into_iter());
                return Ok(TextFile { path, form, number: 0 });
            }
            kind => kind == Kind::Lines,
        };
        let lines = Box::new(Cursor::new(head).chain(rest));
        Ok(TextFile { path, form: Form::Lines { lines, json }, number: 0 })
    }

    /// The next document that is not blank.
    pub fn document(&mut self) -> Result<Option<String>> {
        loop {
            let Some(document) = self.next()? else { return Ok(None) };
            if !document.trim().is_empty() {
                return Ok(Some(document));
            }
        }
    }

    fn next(&mut self) -> Result<Option<String>> {
        let (line, json) = match &mut self.form {
            Form::Array(items) => {
                let Some(item) = items.next() else { return Ok(None) };
                self.number += 1;
                return self.text_of(item).map(Some);
            }
            Form::Lines { lines, json } => {
                let mut line = Vec::new();
                if read_line(self.path, lines, &mut line)? == 0 {
                    return Ok(None);
                }
                (line, *json)
            }
        };
        self.number += 1;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).map_err(|e| {
            let what = format!("is not UTF-8 from byte {} on", e.valid_up_to());
            self.wrong(what, "convert the file, for instance with iconv -t UTF-8")
        })?;
        if !json || text.trim().is_empty() {
            return Ok(Some(text.to_owned()));
        }
        let value = serde_json::from_str(text)
            .map_err(|e| self.wrong(format!("is not JSON: {e}"), AS_TEXT))?;
        self.text_of(value).map(Some)
    }

    fn text_of(&self, value: Value) -> Result<String> {
        let text = match value {
            Value::Object(mut fields) => fields.remove("text"),
            other if matches!(self.form, Form::Array(_)) => Some(other),
            _ => None,
        };
        match text {
            Some(Value::String(text)) => Ok(text),
            _ => Err(self.wrong("has no string \"text\"", AS_TEXT)),
        }
    }

    fn wrong(&self, what: impl Into<String>, remedy: &str) -> Error {
        let unit = if matches!(self.form, Form::Array(_)) { "item" } else { "line" };
        Error::input(self.path, format!("{unit} {}", self.number), what, remedy)
    }
}

#[derive(PartialEq)]
enum Kind {
    Text,
    Lines,
    Array,
}

impl Kind {
    /// What a file is, by its first line and its name; the second is given where the first is a
    /// bracket alone.
    fn of(path: &Path, first: &[u8], second: &[u8]) -> Kind {
        let name = path.to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let object = || serde_json::from_slice(first).is_ok_and(|v: Value| v.is_object());
        let items = first.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
        match items {
            _ if name.ends_with(".jsonl") || name.ends_with(".ndjson") || object() => Kind::Lines,
            Some([b'{', ..]) => Kind::Array,
            _ if matches!(
                (first, second.first()),
                (b"[", Some(b'{' | b'[' | b'"')) | (b"{", Some(b'"'))
            ) =>
            {
                Kind::Array
            }
            _ if name.ends_with(".json") && !first.is_empty() => Kind::Array,
            _ => Kind::Text,
        }
    }
}

/// The file's bytes, decompressed where gzip compressed them.
fn decompressed(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::new(open_file(path)?);
    let failed = |e| Error::io(path, "read", e);
    let start = file.fill_buf().map_err(failed)?;
    check_pointer(path, start)?;
    let mut file: Box<dyn BufRead + Send> = match start.starts_with(GZIP) {
        true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
        false => Box::new(file),
    };
    let start = file.fill_buf().map_err(|e| unread(path, &e))?;
    let other = OTHERS.into_iter().find(|(magic, _)| start.starts_with(magic));
    let zeros = start[..start.len().min(1024)].contains(&0);
    match other.map(|(_, what)| what).or(zeros.then_some("has zero bytes, which no text has")) {
        Some(what) => Err(Error::input(path, "corpus", what, AS_TEXT)),
        None => Ok(file),
    }
}

/// Reads up to the end of the next line that is not blank; returns where in `text` it is, trimmed,
/// or nothing at the end of the file.
fn next_line(path: &Path, from: &mut dyn BufRead, text: &mut Vec<u8>) -> Result<Range<usize>> {
    loop {
        let start = text.len();
        let read = read_line(path, from, text)?;
        let line = &text[start..];
        let (blank, whole) = (line.len() - line.trim_ascii_start().len(), line.trim_ascii().len());
        if read == 0 || whole > 0 {
            return Ok(start + blank..start + blank + whole);
        }
    }
}

fn read_line(path: &Path, from: &mut dyn BufRead, line: &mut Vec<u8>) -> Result<usize> {
    from.read_until(b'\n', line).map_err(|e| unread(path, &e))
}

/// The system has few words for a broken archive.
fn unread(path: &Path, e: &std::io::Error) -> Error {
    let what = format!("cannot be read to its end: {e}");
    Error::input(path, "corpus", what, "check that it is whole, or copy it again")
}

/// The items of a JSON array.
fn array(path: &Path, mut text: Vec<u8>, rest: impl Read) -> Result<Vec<Value>> {
    let wrong = |what: String| Error::input(path, "corpus", what, AS_TEXT);
    rest.take(MAX_ARRAY + 1).read_to_end(&mut text).map_err(|e| unread(path, &e))?;
    if text.len() as u64 > MAX_ARRAY {
        return Err(wrong(format!(
            "has more than {MAX_ARRAY} bytes of JSON, which is parsed whole"
        )));
    }
    match serde_json::from_slice(&text).map_err(|e| wrong(format!("is not JSON: {e}")))? {
        Value::Array(items) => Ok(items),
        _ => Err(wrong("is neither a JSON array nor JSON Lines".to_owned())),
    }
}
