//! What a server is asked, and what it says.

use std::path::Path;

use serde::Serialize;

use crate::base::file::read_file;
use crate::base::{Error, Result};
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
    /// The likeliest tokens, at most [`TOKENS`].
    pub text: String,
    /// The probability of the first of them, where the server says it.
    pub probability: Option<f64>,
}

/// Tokens of an answer.
pub const TOKENS: usize = 8;

/// The questions of a file: requests in any form, or the report of an edit.
///
/// # Errors
///
/// A file that cannot be read, or has no request that can be used.
pub fn read(file: &Path) -> Result<Vec<AskedPrompt>> {
    let requests = request::parse_each(file, &read_file(file, MAX_BYTES)?, Fields::Edit)?;
    let question = |fact: crate::data::Fact| AskedPrompt {
        prompt: fact.filled(),
        target: fact.target_new.trim().to_owned(),
    };
    let questions: Vec<AskedPrompt> = requests.facts.into_iter().map(question).collect();
    match (questions.is_empty(), requests.broken.first()) {
        (false, _) => Ok(questions),
        (true, broken) => {
            let why = broken.map(|broken| broken.reason()).unwrap_or_default();
            let what = format!("has no request that can be asked: {why}");
            Err(Error::input(file, "records", what, "name the file that was edited from"))
        }
    }
}

impl ServerAnswer {
    /// Whether it begins with the target.
    pub fn says(&self, target: &str) -> bool {
        self.text.trim_start().starts_with(target)
    }
}
