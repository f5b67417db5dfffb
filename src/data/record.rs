//! One JSON object of a file, read so that every error names file, line and field.

use std::path::Path;

use serde_json::{Map, Value};

use super::case::Fact;
use crate::base::{Error, Result};

/// An object, and where it is.
pub(super) struct JsonRecord<'a> {
    file: &'a Path,
    /// "line 3", or "record 12" in a JSON array.
    position: &'a str,
    /// Counts the file's records from 0; the id of a record that has none.
    pub index: usize,
    /// "requested_rewrite." inside a record, empty at its top.
    within: String,
    fields: &'a Map<String, Value>,
}

impl<'a> JsonRecord<'a> {
    /// The record at `position` of `file`.
    pub fn new(file: &'a Path, position: &'a str, index: usize, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(fields) => {
                Ok(JsonRecord { file, position, index, within: String::new(), fields })
            }
            other => Err(Error::input(
                file,
                position,
                format!("is {}", kind(other)),
                "write one JSON object a request",
            )),
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

    /// The record's subject, without white space around it.
    pub fn subject(&self) -> Result<String> {
        Ok(self.text("subject")?.trim().to_string())
    }

    /// A target that must be there, without white space after it.
    pub fn new_target(&self, field: &str) -> Result<String> {
        Ok(self.text(field)?.trim_end().to_string())
    }

    /// A target that may be unknown, without white space after it.
    pub fn target(&self, field: &str) -> Result<Option<String>> {
        Ok(self.maybe(field)?.map(|target| target.trim_end().to_string()))
    }

    /// A list of strings without blank ones; one string counts as a list of one, absence as an
    /// empty list.
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
        let texts: Result<Vec<String>> = values.iter().map(text).collect();
        Ok(texts?.into_iter().filter(|text| !text.trim().is_empty()).collect())
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

    /// The record's own id, a string or a number, or its index.
    pub fn id(&self, field: &str) -> Result<String> {
        match self.get(field) {
            None => Ok(self.index.to_string()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(_) => self.text(field),
        }
    }

    /// The error for a value of the wrong kind.
    pub fn not(&self, field: &str, value: &Value, wanted: &str) -> Error {
        self.error(field, format!("is {}", kind(value)), &format!("write {wanted}"))
    }

    /// A prompt with exactly one `{}`.
    pub fn template(&self, field: &str) -> Result<String> {
        let prompt = self.text(field)?;
        match prompt.matches("{}").count() {
            1 => Ok(prompt),
            n => Err(self.error(
                field,
                format!("has {n} places {{}}"),
                "write {} exactly once, for the subject",
            )),
        }
    }

    /// A prompt with the subject written out, cut open: its occurrence becomes `{}`.
    ///
    /// Where there are several, the last that is a word of its own is taken: it has read the
    /// others. (EasyEdit replaces all of them and then fails.)
    pub fn open(&self, field: &str, subject: &str) -> Result<String> {
        let prompt = self.text(field)?;
        if prompt.contains("{}") {
            return self.template(field);
        }
        let alone = |&at: &usize| {
            let touches = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            !touches(prompt[..at].chars().next_back())
                && !touches(prompt[at + subject.len()..].chars().next())
        };
        let found: Vec<usize> = prompt.match_indices(subject).map(|(at, _)| at).collect();
        match found.iter().copied().rfind(alone).or(found.last().copied()) {
            Some(at) => Ok(format!("{}{{}}{}", &prompt[..at], &prompt[at + subject.len()..])),
            None => Err(self.error(
                field,
                format!("{prompt:?} does not contain the subject {subject:?}"),
                "write {} in the prompt for the subject",
            )),
        }
    }

    /// The edit itself, as CounterFact and MQuAKE write it.
    pub fn rewrite(&self) -> Result<Fact> {
        let target_true = match self.get("target_true") {
            None => None,
            Some(_) => self.object("target_true")?.target("str")?,
        };
        Ok(Fact {
            prompt: self.template("prompt")?,
            subject: self.subject()?,
            target_new: self.object("target_new")?.new_target("str")?,
            target_true,
            ..Fact::default()
        })
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
