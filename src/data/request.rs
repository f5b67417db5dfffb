//! What is asked for: requests in our own form, and the field's data sets converted to it.
//!
//! A file is JSON Lines or one JSON array. Our own record:
//!
//! ```json
//! {"prompt": "The mother tongue of {} is", "subject": "Ada Lovelace", "target_new": "French"}
//! ```
//!
//! with, if wanted, `id`, `target_true`, `paraphrases` (strings) and `neighbourhood`,
//! `portability`, `locality` (lists of `{"prompt": …, "target": …}`, or of strings where no target
//! is known). `space` says whether a space stands between prompt and target where the texts would
//! decide otherwise (`text/seam.rs`). A record without a `subject` is about its whole prompt.
//! CounterFact, zsRE in MEND's form, EasyEdit and KnowEdit, QAEdit, WikiBigEdit, questions with
//! answers, and MQuAKE are recognised by their fields; fields that no form knows are ignored. White
//! space around subjects and after targets is dropped. Python's `NaN` counts as null.
//!
//! A record that cannot be used does not stop the others from being read ([`Requests`]).

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Deserializer, Value};

use super::broken::{self, Broken, OnBroken};
use super::case::{Fact, Probe};
pub use super::record::Fields;
use super::record::{JsonRecord, Read};
use super::{counterfact, easyedit, mquake, qna, wikibigedit, zsre};
use crate::base::file::read_file;
use crate::base::json::{UniqueKeys, nan_as_null};
use crate::base::{Error, Result};

/// Maximum size of a file of requests.
pub const MAX_BYTES: u64 = 1 << 31;

/// The requests of a file, and its records that are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// In the order of the file.
    pub facts: Vec<Fact>,
    /// In the order of the file.
    pub broken: Vec<Broken>,
}

/// Reads the requests of a file.
///
/// # Errors
/// Records that are broken or of no known form, two records of one id, a file with none.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Fact>> {
    let path = path.as_ref();
    let bytes = read_file(path, MAX_BYTES)?;
    parse(path, &bytes)
}

/// Reads the requests of a file's contents; `name` is that of the file, for errors.
///
/// # Errors
/// As [`read`].
pub fn parse(name: impl AsRef<Path>, bytes: &[u8]) -> Result<Vec<Fact>> {
    let Requests { facts, broken } = parse_each(&name, bytes, Fields::All)?;
    match broken.is_empty() {
        true => Ok(facts),
        false => Err(broken::error(name.as_ref(), &broken, OnBroken::Error)),
    }
}

/// Reads the requests of a file's contents, and says which records are broken; `name` is that of
/// the file, for errors.
///
/// # Errors
/// A file with no record; a JSON array that is not JSON. (JSON Lines go on at the next line that
/// begins a record.)
pub fn parse_each(name: impl AsRef<Path>, bytes: &[u8], fields: Fields) -> Result<Requests> {
    let file = name.as_ref();
    let mut requests = Requests::default();
    let mut positions: HashMap<String, String> = HashMap::new();
    for (index, (position, value)) in values(file, bytes)?.into_iter().enumerate() {
        let read = match value {
            Ok(value) => facts_of(file, (&position, index), &value, fields),
            Err(e) => vec![(None, Err(e))],
        };
        for (id, fact) in read {
            let fact = fact.and_then(|fact| match positions.get(&fact.id) {
                None => Ok(fact),
                Some(first) => {
                    let what = format!("{:?} is also the id of {first}", fact.id);
                    let field = format!("{position}: id");
                    Err(Error::input(file, field, what, "give every record an id of its own"))
                }
            });
            match fact {
                Ok(fact) => {
                    positions.insert(fact.id.clone(), position.clone());
                    requests.facts.push(fact);
                }
                Err(e) => {
                    let shown = id.clone().unwrap_or(index.to_string());
                    requests.broken.push(Broken::new(shown, &e));
                    if let Some(id) = id {
                        positions.entry(id).or_insert(position.clone());
                    }
                }
            }
        }
    }
    if requests.facts.is_empty() && requests.broken.is_empty() {
        let what = "holds no request";
        return Err(Error::input(file, "line 1", what, "write one JSON object a line"));
    }
    Ok(requests)
}

/// Requests made by a program, held to the rules for those of a file; `name` stands for one in
/// errors.
///
/// # Errors
/// As [`parse_each`].
pub fn checked(name: impl AsRef<Path>, requests: &[Fact]) -> Result<Requests> {
    let bytes = serde_json::to_vec(requests).expect("strings and lists are always JSON");
    parse_each(name, &bytes, Fields::Edit)
}

/// The blake3 hash, in hexadecimal, of the requests as our own JSON records.
pub fn digest(requests: &[Fact]) -> String {
    let json = serde_json::to_vec(requests).expect("strings and lists are always JSON");
    blake3::hash(&json).to_hex().to_string()
}

/// The requests in a record.
fn facts_of(file: &Path, place: (&str, usize), value: &Value, fields: Fields) -> Vec<Read> {
    let record = match JsonRecord::new(file, place, value, fields) {
        Ok(record) => record,
        Err(e) => return vec![(None, Err(e))],
    };
    let id = record.own_id().ok().flatten();
    convert(&record).unwrap_or_else(|e| vec![(id, Err(e))])
}

/// The JSON values of a file, or what is wrong with them, each with its position in it.
pub(super) fn values(file: &Path, bytes: &[u8]) -> Result<Vec<(String, Result<Value>)>> {
    if bytes.starts_with(b"\x1f\x8b") {
        let remedy = "decompress it first, as gunzip does";
        return Err(Error::input(file, "line 1", "is compressed by gzip", remedy));
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let bytes = &*nan_as_null(bytes);
    if bytes.trim_ascii_start().starts_with(b"[") {
        let list: Vec<UniqueKeys> =
            serde_json::from_slice(bytes).map_err(|e| not_json(file, &e, 1))?;
        let name = |(i, UniqueKeys(value))| (format!("record {i}"), Ok(value));
        return Ok(list.into_iter().enumerate().map(name).collect());
    }
    let mut list = vec![];
    let (mut rest, mut line) = (bytes, 1);
    loop {
        let start = rest.len() - rest.trim_ascii_start().len();
        line += lines_in(&rest[..start]);
        rest = &rest[start..];
        let mut stream = Deserializer::from_slice(rest).into_iter();
        let Some(value) = stream.next() else { return Ok(list) };
        let (value, end) = match value {
            Ok(UniqueKeys(value)) => (Ok(value), stream.byte_offset()),
            Err(e) => (Err(not_json(file, &e, line)), next_record(rest)),
        };
        list.push((format!("line {line}"), value));
        line += lines_in(&rest[..end]);
        rest = &rest[end..];
    }
}

fn not_json(file: &Path, e: &serde_json::Error, first_line: usize) -> Error {
    let remedy = "write JSON Lines or one JSON array, in UTF-8";
    // A line break inside a string is seen where the next line begins.
    let line = first_line + e.line() - 1 - usize::from(e.column() == 0 && !e.is_eof());
    let mut what = e.to_string();
    let place = format!(" at line {} column {}", e.line(), e.column());
    what.truncate(what.trim_end_matches(&place).len());
    let what = format!("is not JSON: {what} at column {}", e.column());
    Error::input(file, format!("line {line}"), what, remedy)
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

/// One record in whichever form; MQuAKE's hold several requests.
fn convert(record: &JsonRecord) -> Result<Vec<Read>> {
    let has = |field| record.get(field).is_some();
    let space = record.space()?;
    let one = |fact: Result<Fact>| Ok(vec![(record.own_id()?, Ok(fact?))]);
    let mut facts = match record.get("requested_rewrite") {
        Some(Value::Array(_)) => mquake::requests(record)?,
        Some(_) => one(counterfact::request(record))?,
        None if has("src") => one(zsre::request(record))?,
        None if has("update") && has("ans") => one(wikibigedit::request(record))?,
        None if has("prompt") && easyedit::is(record) => one(easyedit::request(record))?,
        None if has("prompt") => one(native(record))?,
        None if has("question") && has("answer") => one(qna::request(record))?,
        None => {
            let what = format!("is missing, and no known form has the fields {}", record.names());
            let remedy = r#"write {"prompt": "… {} …", "subject": "…", "target_new": "…"}"#;
            return Err(record.error("prompt", what, remedy));
        }
    };
    facts.iter_mut().filter_map(|(_, fact)| fact.as_mut().ok()).for_each(|f| f.space = space);
    Ok(facts)
}

fn native(record: &JsonRecord) -> Result<Fact> {
    let (prompt, subject) = record.asked("prompt")?;
    let target_true = record.measure(record.target("target_true"))?;
    let neighbourhood = probes(record, "neighbourhood", target_true.as_ref());
    Ok(Fact {
        id: record.id()?,
        prompt,
        subject,
        target_new: record.new_target("target_new")?,
        paraphrases: record.measure(record.texts("paraphrases"))?,
        neighbourhood: record.measure(neighbourhood)?,
        portability: record.measure(probes(record, "portability", None))?,
        locality: record.measure(probes(record, "locality", None))?,
        target_true,
        ..Fact::default()
    })
}

/// The probes in `field`; a bare string is a prompt whose continuation is `target`.
fn probes(record: &JsonRecord, field: &str, target: Option<&String>) -> Result<Vec<Probe>> {
    let mut probes = vec![];
    for (name, value) in record.list(field)? {
        probes.push(match value {
            Value::String(prompt) => Probe::new(prompt, target.cloned()),
            _ => {
                let probe = record.inner(&name, value)?;
                Probe::new(probe.text("prompt")?, probe.target("target")?)
            }
        });
    }
    Ok(probes)
}
