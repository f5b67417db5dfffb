//! What an evaluation's folder holds, as it is read.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::drift::DocumentResult;
use super::results::CaseResult;
use super::session::Session;
use super::task::TaskResult;
use crate::base::file::{read_file, read_text};
use crate::base::{Error, Result};

/// Name of the file that says what was asked for.
pub const RUN: &str = "run.json";
/// Name of the file of results.
pub const RESULTS: &str = "results.jsonl";
/// Name of the file of calls.
pub const SESSIONS: &str = "sessions.jsonl";

/// Name of the file of what was measured on text.
pub const TEXT: &str = "text.jsonl";
/// Name of the file of answers to tasks.
pub const TASKS: &str = "tasks.jsonl";

/// Far above any file of results.
const MAX_BYTES: u64 = 1 << 32;
/// Far above any `run.json`.
const MAX_RUN: u64 = 1 << 24;

/// What a folder holds.
pub struct Kept {
    /// What was asked for.
    pub run: Value,
    /// What was measured, in the order in which it was.
    pub results: Vec<CaseResult>,
    /// The calls that did it.
    pub sessions: Vec<Session>,
    /// What was measured on text, once all cases were edited.
    pub documents: Vec<DocumentResult>,
    /// What was answered to tasks then.
    pub tasks: Vec<TaskResult>,
}

impl Kept {
    /// Reads the results of a run.
    ///
    /// # Errors
    ///
    /// No such folder; a line that is none of theirs.
    pub fn read(dir: &Path) -> Result<Kept> {
        let run = read_json(&dir.join(RUN))?;
        let results =
            read_lines(&dir.join(RESULTS), "remove the line: the case is measured again")?;
        let said = "remove the line: it says what was done, and no results";
        let sessions = read_if_there(&dir.join(SESSIONS), said)?;
        let again = "remove the file: it is made again";
        let documents = read_if_there(&dir.join(TEXT), again)?;
        let tasks = read_if_there(&dir.join(TASKS), again)?;
        Ok(Kept { run, results, sessions, documents, tasks })
    }

    /// The results that numbers are of: those with the most cases edited where they were edited one
    /// upon the other, else all.
    pub fn last(&self) -> Vec<&CaseResult> {
        let last = self.results.iter().map(|result| result.edited).max().unwrap_or(0);
        let is_last = |result: &&CaseResult| result.edited == last || !self.is_sequential();
        self.results.iter().filter(is_last).collect()
    }

    /// Whether cases were edited one upon the other.
    pub fn is_sequential(&self) -> bool {
        self.run["mode"] == "sequential"
    }
}

/// What a small file of JSON says.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_slice(&read_file(path, MAX_RUN)?).map_err(|e| {
        let remedy = "name another folder, or remove this one";
        Error::input(path, "JSON", format!("cannot be read: {e}"), remedy)
    })
}

/// What the lines of a file say; nothing where there is none.
fn read_if_there<T: DeserializeOwned>(path: &Path, remedy: &str) -> Result<Vec<T>> {
    if path.exists() { read_lines(path, remedy) } else { Ok(vec![]) }
}

/// What whole lines say: the last may have been cut off.
fn read_lines<T: DeserializeOwned>(path: &Path, remedy: &str) -> Result<Vec<T>> {
    let text = read_text(path, MAX_BYTES)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let read = |(i, line): (usize, &str)| {
        let wrong = |e| {
            let what = format!("cannot be read: {e}");
            Error::input(path, format!("line {}", i + 1), what, remedy)
        };
        serde_json::from_str(line).map_err(wrong)
    };
    whole.lines().enumerate().map(read).collect()
}
