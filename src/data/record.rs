//! One JSON object of a file, read so that every error names file, line and field.

use std::path::Path;

use serde_json::{Map, Value};

use super::case::Background;
use super::fact::Fact;
use super::word;
use crate::base::{Error, Result};

/// Fields that may hold a record's id, the first that is there.
const IDS: [&str; 3] = ["id", "case_id", "case_index"];
const SUBJECT: &str = "fill it in, or take the field out: then the whole prompt is the subject";

/// Which fields of a record have to be right; of the others, broken ones are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Those that an edit needs: prompt, subject, new target, space and id.
    Edit,
    /// Also those that measure an edit.
    All,
}

/// An object, and where it is.
pub(super) struct JsonRecord<'a> {
    file: &'a Path,
    /// "line 3", or "record 12" in a JSON array.
    position: &'a str,
    /// Counts the file's records from 0; the id of a record that has none.
    index: usize,
    /// Which fields have to be right.
    wanted: Fields,
    /// "requested_rewrite." inside a record, empty at its top.
    within: String,
    fields: &'a Map<String, Value>,
}

impl<'a> JsonRecord<'a> {
    /// The record at `position` of `file`.
    pub fn new(
        file: &'a Path,
        (position, index): (&'a str, usize),
        value: &'a Value,
        wanted: Fields,
    ) -> Result<Self> {
        match value {
            Value::Object(fields) => {
                Ok(JsonRecord { file, position, index, wanted, within: String::new(), fields })
            }
            other => Err(Error::input(
                file,
                position,
                format!("is {}", kind(other)),
                "write one JSON object a request",
            )),
        }
    }

    /// What was read of fields that only measure: nothing, where they are broken and no matter.
    pub fn measure<T: Default>(&self, read: Result<T>) -> Result<T> {
        match self.wanted {
            Fields::All => read,
            Fields::Edit => Ok(read.unwrap_or_default()),
        }
    }

    /// An error about `field`.
    pub fn error(&self, field: &str, what: impl Into<String>, remedy: &str) -> Error {
        Error::input(self.file, format!("{}: {}{field}", self.position, self.within), what, remedy)
    }

    /// The record's field names.
    pub fn names(&self) -> String {
        self.fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// The field's value; null counts as absent.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// A string that is not blank.
    pub fn text(&self, field: &str) -> Result<String> {
        match self.get(field) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
            Some(Value::String(_)) => Err(self.error(field, "is empty", "fill it in")),
            Some(other) => Err(self.not(field, other, "a string")),
            None => Err(self.error(field, "is missing", "add it")),
        }
    }

    /// The string in `field`; nothing where it is absent or blank.
    pub fn maybe(&self, field: &str) -> Result<Option<String>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(_) => self.text(field).map(Some),
        }
    }

    /// The prompt in `field` with `{}` for its subject, and the subject without white space around
    /// it. Where the record names none, the whole prompt is its subject.
    pub fn asked(&self, field: &str) -> Result<(String, String)> {
        let prompt = self.text(field)?;
        match self.get("subject") {
            None if prompt.contains("{}") => Err(self.error("subject", "is missing", "add it")),
            None => {
                let text = prompt.trim();
                Ok((prompt.replacen(text, "{}", 1), text.to_owned()))
            }
            Some(Value::String(subject)) if subject.trim().is_empty() => {
                Err(self.error("subject", "is empty", SUBJECT))
            }
            Some(_) => {
                let subject = self.text("subject")?.trim().to_owned();
                Ok((self.open(field, &prompt, &subject)?, subject))
            }
        }
    }

    /// Whether a space stands before the target, where the record says so.
    pub fn space(&self) -> Result<Option<bool>> {
        match self.get("space") {
            None => Ok(None),
            Some(Value::Bool(space)) => Ok(Some(*space)),
            Some(other) => Err(self.not("space", other, "true or false")),
        }
    }

    /// A target that must be there, without white space after it.
    pub fn new_target(&self, field: &str) -> Result<String> {
        Ok(self.text(field)?.trim_end().to_string())
    }

    /// A target that may be unknown, without white space after it.
    pub fn target(&self, field: &str) -> Result<Option<String>> {
        Ok(self.maybe(field)?.map(|target| target.trim_end().to_string()))
    }

    /// A list of strings without blank ones and nulls; one string counts as a list of one, absence
    /// as an empty list.
    pub fn texts(&self, field: &str) -> Result<Vec<String>> {
        let values = match self.get(field) {
            None => return Ok(vec![]),
            Some(Value::Array(values)) => &values[..],
            Some(value) => std::slice::from_ref(value),
        };
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.not(field, other, "a string")),
        };
        let there = values.iter().filter(|value| !value.is_null());
        let texts: Result<Vec<String>> = there.map(text).collect();
        Ok(texts?.into_iter().filter(|text| !text.trim().is_empty()).collect())
    }

    /// The right answers in `field`, each with its spellings, without white space after them: a
    /// text, a list of its spellings, or a list of answers that are such lists. What is blank or no
    /// text is left out, and so is an answer without any spelling.
    pub fn answers(&self, field: &str) -> Vec<Vec<String>> {
        self.get(field).map(answers).unwrap_or_default()
    }

    /// The object in `field`.
    pub fn object(&self, field: &str) -> Result<JsonRecord<'a>> {
        match self.get(field) {
            Some(value) => self.inner(field, value),
            None => Err(self.error(field, "is missing", "add it")),
        }
    }

    /// The values of the list in `field`, each with its name for errors; absence is an empty list.
    pub fn list(&self, field: &str) -> Result<Vec<(String, &'a Value)>> {
        match self.get(field) {
            None => Ok(vec![]),
            Some(Value::Array(values)) => Ok(values
                .iter()
                .enumerate()
                .map(|(i, value)| (format!("{field}[{i}]"), value))
                .collect()),
            Some(other) => Err(self.not(field, other, "a list")),
        }
    }

    /// The objects of the list in `field`; absence is an empty list.
    pub fn objects(&self, field: &str) -> Result<Vec<JsonRecord<'a>>> {
        self.list(field)?.into_iter().map(|(name, value)| self.inner(&name, value)).collect()
    }

    /// `value`, found under the name `field`, as an object.
    pub fn inner(&self, field: &str, value: &'a Value) -> Result<JsonRecord<'a>> {
        match value {
            Value::Object(fields) => Ok(JsonRecord {
                file: self.file,
                position: self.position,
                index: self.index,
                wanted: self.wanted,
                within: format!("{}{field}.", self.within),
                fields,
            }),
            other => Err(self.not(field, other, "an object")),
        }
    }

    /// All fields, each with its name.
    pub fn fields(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.fields.iter()
    }

    /// The record's own id, or its index.
    pub fn id(&self) -> Result<String> {
        Ok(self.own_id()?.unwrap_or(self.index.to_string()))
    }

    /// The record's own id, a string or a number. QAEdit counts the records of each of its sources,
    /// which goes before the number there.
    pub fn own_id(&self) -> Result<Option<String>> {
        let Some(field) = IDS.into_iter().find(|field| self.get(field).is_some()) else {
            return Ok(None);
        };
        let id = match self.get(field) {
            Some(Value::Number(number)) => number.to_string(),
            _ => self.text(field)?,
        };
        let is_qaedit = self.get("target").is_some() && self.get("target_new").is_none();
        Ok(Some(match self.get("source") {
            Some(Value::String(source)) if is_qaedit => format!("{source}-{id}"),
            _ => id,
        }))
    }

    /// The error for a value of the wrong kind.
    pub fn not(&self, field: &str, value: &Value, wanted: &str) -> Error {
        self.error(field, format!("is {}", kind(value)), &format!("write {wanted}"))
    }

    /// A prompt with exactly one `{}`: as it is written, or its subject cut out.
    ///
    /// Where the subject occurs several times, the last that is a word of its own is taken: it has
    /// read the others. (EasyEdit replaces all of them and then fails.) Only the same letters
    /// count: of some 26,000 public records, ignoring case would save one.
    fn open(&self, field: &str, prompt: &str, subject: &str) -> Result<String> {
        match prompt.matches("{}").count() {
            0 => {}
            1 => return Ok(prompt.to_owned()),
            n => {
                let remedy = "write {} exactly once, for the subject";
                return Err(self.error(field, format!("has {n} places {{}}"), remedy));
            }
        }
        let mut found = prompt.rmatch_indices(subject).map(|(at, _)| (at, at + subject.len()));
        match found.find(|&(start, end)| word::is_whole(prompt, start, end)) {
            Some((start, end)) => Ok(format!("{}{{}}{}", &prompt[..start], &prompt[end..])),
            None => {
                let inside = prompt.contains(subject);
                let what = match inside {
                    true => {
                        format!("{prompt:?} has the subject {subject:?} only inside other words")
                    }
                    false => format!("{prompt:?} does not contain the subject {subject:?}"),
                };
                Err(self.error(field, what, "write {} in the prompt for the subject"))
            }
        }
    }

    /// The edit itself, as CounterFact and MQuAKE write it.
    pub fn rewrite(&self) -> Result<(Fact, Background)> {
        let (prompt, subject) = self.asked("prompt")?;
        let new = self.object("target_new")?;
        let old = match self.get("target_true") {
            None => None,
            Some(_) => self.measure(self.object("target_true").map(Some))?,
        };
        let old_text = |field| match &old {
            Some(old) => self.measure(old.target(field)),
            None => Ok(None),
        };
        let fact = Fact {
            prompt,
            subject,
            target_new: new.new_target("str")?,
            target_true: old_text("str")?,
            ..Fact::default()
        };
        let background = Background {
            relation: self.measure(self.maybe("relation_id"))?,
            target_new_id: self.measure(new.maybe("id"))?,
            target_true_id: old_text("id")?,
            true_aliases: vec![],
        };
        Ok((fact, background))
    }
}

/// The answers in a value ([`JsonRecord::answers`]).
pub(super) fn answers(value: &Value) -> Vec<Vec<String>> {
    let answers = match value {
        Value::Array(values) if values.iter().any(Value::is_array) => {
            values.iter().map(spellings).collect()
        }
        value => vec![spellings(value)],
    };
    answers.into_iter().filter(|spellings| !spellings.is_empty()).collect()
}

/// All texts in a value, however deep its lists.
fn spellings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => vec![text.trim_end().to_owned()],
        Value::Array(values) => values.iter().flat_map(spellings).collect(),
        _ => vec![],
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
