//! Contexts: prefixes before which a fact is also learnt.
//!
//! A file is a JSON list of groups, `[["{}"], ["The first time that I. {}", …]]`, and begins with
//! the bare `{}`. ROME averages over all contexts flat, the MEMIT family over the groups' means.

use std::path::Path;

use serde_json::Value;

use crate::base::file::read_file;
use crate::base::{Error, Result};

/// How contexts weigh in an average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// All the same.
    Flat,
    /// All groups the same, and the contexts of a group.
    Grouped,
}

/// Groups of contexts, each with one `{}` for the prompt; the first is the bare prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contexts {
    groups: Vec<Vec<String>>,
}

impl Contexts {
    /// The bare prompt alone.
    pub fn bare() -> Self {
        Contexts { groups: vec![vec!["{}".to_string()]] }
    }

    /// Contexts from their groups; `name` is that of their file, for errors.
    ///
    /// # Errors
    /// An empty group, a context without exactly one `{}`, a first context other than `{}`.
    pub fn new(name: impl AsRef<Path>, groups: Vec<Vec<String>>) -> Result<Self> {
        let wrong = |field: String, what: String, remedy| {
            Err(Error::input(name.as_ref(), field, what, remedy))
        };
        if groups.first().and_then(|group| group.first()).map(String::as_str) != Some("{}") {
            let what = "is not the bare \"{}\"".to_string();
            return wrong("group 0, context 0".into(), what, "begin with [\"{}\"]");
        }
        for (g, group) in groups.iter().enumerate() {
            if group.is_empty() {
                return wrong(format!("group {g}"), "is empty".into(), "take it out");
            }
            for (c, context) in group.iter().enumerate() {
                let n = context.matches("{}").count();
                if n != 1 {
                    let what = format!("{context:?} has {n} places {{}}");
                    let remedy = "write {} exactly once, for the prompt";
                    return wrong(format!("group {g}, context {c}"), what, remedy);
                }
            }
        }
        Ok(Contexts { groups })
    }

    /// Reads a contexts file.
    ///
    /// # Errors
    /// No JSON list of lists of strings, or as [`Contexts::new`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_file(path, 1 << 26)?;
        Self::parse(path, &bytes)
    }

    /// Reads a contexts file's bytes; `name` is that of the file, for errors.
    ///
    /// # Errors
    /// As [`Contexts::read`].
    pub fn parse(name: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let groups = serde_json::from_slice(bytes).map_err(|e| {
            Error::input(
                name.as_ref(),
                format!("line {}", e.line()),
                format!("is not a JSON list of lists of strings: {e}"),
                r#"write [["{}"], ["A prefix. {}", …]]"#,
            )
        })?;
        Self::new(name, groups)
    }

    /// The groups, in order.
    pub fn groups(&self) -> &[Vec<String>] {
        &self.groups
    }

    /// All contexts, the bare one first.
    pub fn flat(&self) -> Vec<&str> {
        self.groups.iter().flatten().map(String::as_str).collect()
    }

    /// The weight of each context in an average, in the order of [`flat`](Contexts::flat).
    pub fn weights(&self, average: Average) -> Vec<f64> {
        let all = self.groups.iter().map(Vec::len).sum();
        let each = |group: &Vec<String>| match average {
            Average::Flat => all,
            Average::Grouped => self.groups.len() * group.len(),
        };
        let weights = |group| vec![1.0 / each(group) as f64; group.len()];
        self.groups.iter().flat_map(weights).collect()
    }

    /// The groups as JSON, for a patch's metadata; [`Contexts::parse`] reads it back.
    pub fn to_json(&self) -> Value {
        self.groups.clone().into()
    }
}
