//! The folder that an evaluation leaves, and goes on from after it was cut off.
//!
//! | file | holds |
//! | --- | --- |
//! | `run.json` | what was asked for: model, data, method, settings, versions; a run of other settings is refused |
//! | `results.jsonl` | a [`CaseResult`] a line, as cases are done |
//! | `summary.json` | `metrics`: a [`Summary`](super::results::Summary) a name, and what `run.json` has |

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::drift::{self, DocumentResult};
use super::results::{CaseResult, summarise};
use crate::base::file::{read_file, read_text};
use crate::base::{Error, Result, escape};
use crate::store::write::whole;

const RUN: &str = "run.json";
const RESULTS: &str = "results.jsonl";
const SUMMARY: &str = "summary.json";

/// Far above any.
const MAX_BYTES: u64 = 1 << 32;

/// Results on disk.
pub struct Folder {
    dir: PathBuf,
    run: Value,
    file: File,
    /// What was measured, in the order in which it was.
    pub results: Vec<CaseResult>,
    /// What was measured on text; written with the summary.
    pub documents: Vec<DocumentResult>,
    done: HashSet<(usize, String)>,
}

impl Folder {
    /// Opens the results of a run, or begins them.
    ///
    /// # Errors
    ///
    /// A folder of another run; a line that is no result; a folder that cannot be written.
    pub fn open(dir: &Path, run: Value) -> Result<Folder> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create", e))?;
        let path = dir.join(RUN);
        match path.exists() {
            true => same_run(&path, &run)?,
            false => write_json(&path, &run)?,
        }
        let path = dir.join(RESULTS);
        let results = match path.exists() {
            true => read_results(&path)?,
            false => vec![],
        };
        // Written anew, so that a line that was cut off is gone.
        let lines: String = results.iter().map(line).collect::<Result<_>>()?;
        whole(&path, lines.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(|e| Error::io(&path, "open", e))?;
        let done = results.iter().map(key).collect();
        Ok(Folder { dir: dir.to_owned(), run, file, results, documents: vec![], done })
    }

    /// Whether a case was measured after so many were edited.
    pub fn has(&self, edited: usize, id: &str) -> bool {
        self.done.contains(&(edited, id.to_owned()))
    }

    /// Adds what was measured of a case.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn add(&mut self, result: CaseResult) -> Result<()> {
        let written = self.file.write_all(line(&result)?.as_bytes());
        written.map_err(|e| Error::io(self.dir.join(RESULTS), "write", e))?;
        self.done.insert(key(&result));
        self.results.push(result);
        Ok(())
    }

    /// Writes the summary of what was measured when the most cases were edited; returns it.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn summarise(&self, seed: u64) -> Result<Value> {
        let last = self.results.iter().map(|result| result.edited).max().unwrap_or(0);
        let cases: Vec<&CaseResult> = self
            .results
            .iter()
            .filter(|result| result.edited == last || !self.is_sequential())
            .collect();
        let mut summary = self.run.clone();
        let mut metrics = summarise(&cases, seed);
        metrics.extend(drift::summarise(&self.documents, seed));
        summary["metrics"] = json!(metrics);
        summary["tokens_of_text"] = json!(self.documents.iter().map(|d| d.tokens).sum::<usize>());
        summary["cases"] = json!(cases.len());
        write_json(&self.dir.join(SUMMARY), &summary)?;
        Ok(summary)
    }

    fn is_sequential(&self) -> bool {
        self.run["mode"] == "sequential"
    }
}

fn key(result: &CaseResult) -> (usize, String) {
    (result.edited, result.id.clone())
}

fn line(result: &CaseResult) -> Result<String> {
    let text = serde_json::to_string(result);
    let text = text.map_err(|e| Error::refused(format!("a result: {e}"), "report this"))?;
    Ok(format!("{}\n", escape::json(&text)))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    whole(path, format!("{}\n", escape::json(&format!("{value:#}"))).as_bytes())
}

/// Refuses a folder that holds another run's results, and says what differs.
fn same_run(path: &Path, run: &Value) -> Result<()> {
    let remedy = "name another folder, or remove this one";
    let there: Value = serde_json::from_slice(&read_file(path, 1 << 24)?)
        .map_err(|e| Error::input(path, "JSON", format!("cannot be read: {e}"), remedy))?;
    let empty = serde_json::Map::new();
    let [old, new] = [&there, run].map(|value| value.as_object().unwrap_or(&empty));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    match names.into_iter().find(|&name| old.get(name) != new.get(name)) {
        None => Ok(()),
        Some(name) => {
            let what = "is of another run, whose results are there";
            Err(Error::input(path, name.clone(), what, remedy))
        }
    }
}

/// The results of whole lines: the last may have been cut off.
fn read_results(path: &Path) -> Result<Vec<CaseResult>> {
    let text = read_text(path, MAX_BYTES)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let read = |(i, line): (usize, &str)| {
        let wrong = |e| {
            let remedy = "remove the line: the case is measured again";
            Error::input(path, format!("line {}", i + 1), format!("is no result: {e}"), remedy)
        };
        serde_json::from_str(line).map_err(wrong)
    };
    whole.lines().enumerate().map(read).collect()
}
