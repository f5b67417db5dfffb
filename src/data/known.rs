//! Facts that a model is expected to know, for causal tracing: ROME's known facts (Meng et al.
//! 2022, `known_1000.json`: `prompt`, `subject`, `attribute`), or the old targets of any records
//! that [`request`](super::request) reads.

use std::path::Path;

use super::broken::Broken;
use super::case::Fact;
use super::record::{Fields, JsonRecord};
use super::request::{MAX_BYTES, parse_each, values};
use crate::base::file::read_file;
use crate::base::{Error, Result};

/// A fact that a model is expected to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFact {
    /// The record's own id, else its index from 0.
    pub id: String,
    /// Has exactly one `{}`, for the subject.
    pub prompt: String,
    /// What the fact is about, without white space around it.
    pub subject: String,
    /// What the model is expected to go on with.
    pub object: String,
}

/// The known facts of a file, and its records without any, both in its order.
///
/// # Errors
/// A file that cannot be read; one without a record; a JSON array that is not JSON.
pub fn known(path: impl AsRef<Path>) -> Result<(Vec<KnownFact>, Vec<Broken>)> {
    let path = path.as_ref();
    let bytes = read_file(path, MAX_BYTES)?;
    let (mut facts, mut broken) = (vec![], vec![]);
    let mut has_attribute = false;
    for (index, (position, value)) in values(path, &bytes)?.into_iter().enumerate() {
        let read = value.and_then(|value| {
            let record = JsonRecord::new(path, (&position, index), &value, Fields::Edit)?;
            has_attribute |= record.get("attribute").is_some();
            let (prompt, subject) = record.asked("prompt")?;
            let (id, object) = (record.id()?, record.new_target("attribute")?);
            Ok(KnownFact { id, prompt, subject, object })
        });
        match read {
            Ok(fact) => facts.push(fact),
            Err(e) => broken.push(Broken::new(index.to_string(), &e)),
        }
    }
    if has_attribute {
        return Ok((facts, broken));
    }
    let read = parse_each(path, &bytes, Fields::All)?;
    let (mut facts, mut broken) = (vec![], read.broken);
    for Fact { id, prompt, subject, target_true, .. } in read.facts {
        match target_true {
            Some(object) => facts.push(KnownFact { id, prompt, subject, object }),
            None => {
                let remedy = "name what the model knows, or leave the record out";
                let e = Error::input(path, "target_true", "is not in the record", remedy);
                broken.push(Broken::new(id, &e));
            }
        }
    }
    Ok((facts, broken))
}
