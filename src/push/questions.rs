//! What a server is asked, and what it says.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::base::file::read_file;
use crate::base::{Error, Result};
use crate::data::Fact;
use crate::data::request::{self, Fields, MAX_BYTES};

/// A prompt of an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AskedPrompt {
    /// The prompt, its subject filled in.
    pub prompt: String,
    /// What the edited model should say.
    pub target: String,
}

/// What a server says to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerAnswer {
    /// The likeliest tokens, as many as the question asks for.
    pub text: String,
    /// The probability of the first of them, where the server says it.
    pub probability: Option<f64>,
}

/// The questions of a file, at most so many: requests in any form, or the report of an edit, of
/// which those count that were edited.
///
/// # Errors
///
/// A file that cannot be read, or has no request that can be used.
pub fn read(file: &Path, most: usize) -> Result<Vec<AskedPrompt>> {
    let bytes = read_file(file, MAX_BYTES)?;
    let edited = |line: &&[u8]| {
        let line: Value = serde_json::from_slice(line).unwrap_or_default();
        let out = ![Value::Null, Value::Bool(false)].contains(&line["left_out"]);
        line["superseded_by"].is_null() && !out
    };
    let lines: Vec<&[u8]> = bytes.split(|&b| b == b'\n').filter(edited).collect();
    let requests = request::parse_each(file, &lines.join(&b'\n'), Fields::Edit)?;
    let question = |fact: Fact| AskedPrompt {
        prompt: fact.filled(),
        target: fact.target_new.trim().to_owned(),
    };
    let questions: Vec<_> = requests.facts.into_iter().take(most).map(question).collect();
    match (questions.is_empty(), requests.broken.first()) {
        (false, _) => Ok(questions),
        (true, broken) => {
            let why = broken.map(|broken| broken.reason()).unwrap_or_default();
            let what = format!("has no request that can be asked: {why}");
            Err(Error::input(file, "records", what, "name the file that was edited from"))
        }
    }
}

impl AskedPrompt {
    /// Tokens that hold the target and a little more: at least one for two characters.
    pub fn tokens(&self) -> usize {
        8 + self.target.chars().count() / 2
    }
}

impl ServerAnswer {
    /// Whether it begins with the target, as whole words.
    pub fn says(&self, target: &str) -> bool {
        let rest = self.text.trim_start().strip_prefix(target);
        rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    }
}
