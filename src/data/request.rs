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
//! is known). CounterFact, zsRE in MEND's form, EasyEdit and KnowEdit, and MQuAKE are recognised by
//! their fields; fields that no form knows are ignored. White space around subjects and after
//! targets is dropped.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::case::{Fact, Probe};
use super::record::JsonRecord;
use super::{counterfact, easyedit, mquake, zsre};
use crate::base::file::read_file;
use crate::base::json::UniqueKeys;
use crate::base::{Error, Result};

/// Reads the requests of a file.
///
/// # Errors
/// The first record that is broken or of no known form, two records of one id, a file with none.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Fact>> {
    let path = path.as_ref();
    let bytes = read_file(path, 1 << 31)?;
    parse(path, &bytes)
}

/// Reads the requests of a file's contents; `name` is that of the file, for errors.
///
/// # Errors
/// As [`read`].
pub fn parse(name: impl AsRef<Path>, bytes: &[u8]) -> Result<Vec<Fact>> {
    let file = name.as_ref();
    let mut requests = vec![];
    let mut positions: HashMap<String, String> = HashMap::new();
    for (index, (position, value)) in values(file, bytes)?.iter().enumerate() {
        let record = JsonRecord::new(file, position, index, value)?;
        for request in convert(&record)? {
            if let Some(first) = positions.insert(request.id.clone(), position.clone()) {
                let what = format!("{:?} is also the id of {first}", request.id);
                return Err(record.error("id", what, "give every record an id of its own"));
            }
            requests.push(request);
        }
    }
    if requests.is_empty() {
        let what = "holds no request";
        return Err(Error::input(file, "line 1", what, "write one JSON object a line"));
    }
    Ok(requests)
}

/// Requests made by a program, held to the rules for those of a file; `name` stands for one in
/// errors.
///
/// # Errors
/// As [`read`].
pub fn checked(name: impl AsRef<Path>, requests: &[Fact]) -> Result<Vec<Fact>> {
    parse(name, &serde_json::to_vec(requests).expect("strings and lists are always JSON"))
}

/// The blake3 hash, in hexadecimal, of the requests as our own JSON records.
pub fn digest(requests: &[Fact]) -> String {
    let json = serde_json::to_vec(requests).expect("strings and lists are always JSON");
    blake3::hash(&json).to_hex().to_string()
}

/// The JSON values of a file, each with its position in it.
fn values(file: &Path, bytes: &[u8]) -> Result<Vec<(String, Value)>> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let broken = |e: serde_json::Error| {
        let remedy = "write JSON Lines or one JSON array, in UTF-8";
        // A line break inside a string is seen where the next line begins.
        let line = e.line() - usize::from(e.column() == 0 && !e.is_eof());
        Error::input(file, format!("line {line}"), format!("is not JSON: {e}"), remedy)
    };
    if bytes.trim_ascii_start().starts_with(b"[") {
        let list: Vec<UniqueKeys> = serde_json::from_slice(bytes).map_err(broken)?;
        let name = |(i, UniqueKeys(value))| (format!("record {i}"), value);
        return Ok(list.into_iter().enumerate().map(name).collect());
    }
    let mut list = vec![];
    let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter();
    let mut line = 1;
    let mut counted = 0;
    loop {
        let rest = &bytes[stream.byte_offset()..];
        let start = bytes.len() - rest.trim_ascii_start().len();
        line += bytes[counted..start].iter().filter(|&&b| b == b'\n').count();
        counted = start;
        match stream.next() {
            Some(value) => {
                let UniqueKeys(value) = value.map_err(broken)?;
                list.push((format!("line {line}"), value));
            }
            None => return Ok(list),
        }
    }
}

/// One record in whichever form; MQuAKE's hold several requests.
fn convert(record: &JsonRecord) -> Result<Vec<Fact>> {
    let one = |request: Result<Fact>| request.map(|request| vec![request]);
    match record.get("requested_rewrite") {
        Some(Value::Array(_)) => return mquake::requests(record),
        Some(_) => return one(counterfact::request(record)),
        None => {}
    }
    if record.get("src").is_some() {
        one(zsre::request(record))
    } else if record.get("prompt").is_none() {
        let what = format!("is missing, and no known form has the fields {}", record.names());
        let remedy = r#"write {"prompt": "… {} …", "subject": "…", "target_new": "…"}"#;
        Err(record.error("prompt", what, remedy))
    } else if easyedit::is(record) {
        one(easyedit::request(record))
    } else {
        one(native(record))
    }
}

fn native(record: &JsonRecord) -> Result<Fact> {
    let target_true = record.target("target_true")?;
    Ok(Fact {
        id: record.id("id")?,
        prompt: record.template("prompt")?,
        subject: record.subject()?,
        target_new: record.new_target("target_new")?,
        paraphrases: record.texts("paraphrases")?,
        neighbourhood: probes(record, "neighbourhood", target_true.as_ref())?,
        portability: probes(record, "portability", None)?,
        locality: probes(record, "locality", None)?,
        target_true,
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
