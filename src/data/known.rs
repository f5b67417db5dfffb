//! Facts that a model is expected to know, for causal tracing: ROME's known facts (Meng et al.
//! 2022, `known_1000.json`: `prompt`, `subject`, `attribute`), or the old targets of any records
//! that [`request`](super::request) reads.

use std::borrow::Cow;
use std::path::Path;

use super::broken::Broken;
use super::case::{Background, Case};
use super::fact::Fact;
use super::forms;
use super::record::{Fields, JsonRecord};
use super::request::MAX_BYTES;
use super::values::Values;
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
    /// Wikidata's property.
    pub relation: Option<String>,
}

/// The known facts of a file, and its records without any, both in its order.
///
/// # Errors
/// A file that cannot be read; one without a record; a JSON array that is not JSON.
pub fn known(path: impl AsRef<Path>) -> Result<(Vec<KnownFact>, Vec<Broken>)> {
    let path = path.as_ref();
    let bytes = read_file(path, MAX_BYTES)?;
    let mut values = Values::new(path, Cow::Owned(bytes))?;
    let (mut facts, mut broken) = (vec![], vec![]);
    while let Some((position, value)) = values.next()? {
        let index = values.count - 1;
        let read = value.and_then(|value| {
            let record = JsonRecord::new(path, (&position, index), &value, Fields::Edit)?;
            facts_of(&record)
        });
        match read {
            Ok(read) => facts.extend(read),
            Err(e) => broken.push(Broken::new(index.to_string(), &e)),
        }
    }
    if values.count == 0 {
        let (what, remedy) = ("holds no record", "write one JSON object a line");
        return Err(Error::input(path, "line 1", what, remedy));
    }
    Ok((facts, broken))
}

fn facts_of(record: &JsonRecord) -> Result<Vec<KnownFact>> {
    if record.get("attribute").is_some() {
        let (prompt, subject) = record.asked("prompt")?;
        let (id, object) = (record.id()?, record.new_target("attribute")?);
        let relation = record.maybe("relation_id")?;
        return Ok(vec![KnownFact { id, prompt, subject, object, relation }]);
    }
    let (form, draft) = forms::draft(record)?;
    let Case { facts, background, .. } = draft.case(record.id()?, form)?;
    let known = |(fact, Background { relation, .. }): (Fact, _)| {
        let Fact { id, prompt, subject, target_true, .. } = fact;
        let remedy = "name what the model knows, or leave the record out";
        let object = target_true
            .ok_or_else(|| record.error("target_true", "is not in the record", remedy))?;
        Ok(KnownFact { id, prompt, subject, object, relation })
    };
    facts.into_iter().zip(background).map(known).collect()
}
