//! The folder that an evaluation leaves, and goes on from after it was cut off.
//!
//! | file | holds |
//! | --- | --- |
//! | `run.json` | what was asked for; a run of other settings is refused |
//! | `results.jsonl` | a [`CaseResult`] a line, as cases are done |
//! | `sessions.jsonl` | a [`Session`] a line: each call that added to them, and what it cost |
//! | `text.jsonl` | a `DocumentResult` a line: what was measured on text once all was edited |
//! | `tasks.jsonl` | a [`TaskResult`] a line: what was answered to tasks then |
//! | `samples/` | a folder a model, `samples_TASK_incise.jsonl`: with lm-evaluation-harness keys |
//! | `summary.json` | what `run.json` has, and an [`Overview`] of the results |
//! | `report.html` | the same as a page |

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::drift::DocumentResult;
use super::kept::{Kept, RESULTS, RUN, SESSIONS, TASKS, TEXT, read_json};
use super::overview::Overview;
use super::report;
use super::results::CaseResult;
use super::session::Session;
use super::task::TaskResult;
use crate::base::file::make_folder;
use crate::base::{Error, Result, escape};
use crate::store::write::whole;

const SUMMARY: &str = "summary.json";
const REPORT: &str = "report.html";

/// Results on disk, to be added to.
pub struct Folder {
    dir: PathBuf,
    /// What is in it.
    pub kept: Kept,
    file: File,
    done: HashSet<(usize, String)>,
}

impl Folder {
    /// Opens the results of a run, or begins them.
    ///
    /// # Errors
    ///
    /// A folder of another run; a line that is no result; a folder that cannot be written.
    pub fn open(dir: &Path, run: Value) -> Result<Folder> {
        make_folder(dir)?;
        let path = dir.join(RESULTS);
        if !path.exists() {
            whole(&path, b"")?;
        }
        // A run that ended before its first result leaves nothing that another could be taken for.
        let holds = |name| fs::metadata(dir.join(name)).is_ok_and(|file| file.len() > 0);
        let has_results = [RESULTS, TEXT, TASKS].into_iter().any(holds);
        let of_run = dir.join(RUN);
        match has_results && of_run.exists() {
            true => same_run(&of_run, &read_json(&of_run)?, &run)?,
            false => write_json(&of_run, &run)?,
        }
        let kept = Kept { run, ..Kept::read(dir)? };
        // Written anew, so that a line that was cut off is gone.
        let lines: String = kept.results.iter().map(line).collect::<Result<_>>()?;
        whole(&path, lines.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(|e| Error::io(&path, "open", e))?;
        let done = kept.results.iter().map(key).collect();
        Ok(Folder { dir: dir.to_owned(), kept, file, done })
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
        self.kept.results.push(result);
        Ok(())
    }

    /// Adds a call that ends; one that did nothing leaves no line.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn ended(&mut self, session: Session) -> Result<()> {
        if session.cases == 0 && session.facts == 0 {
            return Ok(());
        }
        self.kept.sessions.push(session);
        let lines: String = self.kept.sessions.iter().map(line).collect::<Result<_>>()?;
        whole(&self.dir.join(SESSIONS), lines.as_bytes())
    }

    /// Keeps what was measured once all cases were edited.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn end(&mut self, documents: Vec<DocumentResult>, tasks: Vec<TaskResult>) -> Result<()> {
        let lines: String = documents.iter().map(line).collect::<Result<_>>()?;
        whole(&self.dir.join(TEXT), lines.as_bytes())?;
        let lines: String = tasks.iter().map(line).collect::<Result<_>>()?;
        whole(&self.dir.join(TASKS), lines.as_bytes())?;
        (self.kept.documents, self.kept.tasks) = (documents, tasks);
        self.samples()
    }

    /// Writes the samples of tasks, a file a task and a model.
    fn samples(&self) -> Result<()> {
        let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
        for result in &self.kept.tasks {
            let answers = [("unedited", Some(&result.before)), ("edited", result.after.as_ref())];
            for (which, answer) in answers {
                let Some(answer) = answer else { continue };
                let name = format!("samples_{}_incise.jsonl", result.document.task);
                let file = files.entry(self.dir.join("samples").join(which).join(name));
                *file.or_default() += &line(&result.sample(answer))?;
            }
        }
        for (file, lines) in files {
            let dir = file.parent().expect("a file in a folder");
            make_folder(dir)?;
            whole(&file, lines.as_bytes())?;
        }
        Ok(())
    }

    /// Writes the summary of the results and the page of it; returns the summary.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn summarise(&self, seed: u64) -> Result<Value> {
        let overview = Overview::new(&self.kept, seed);
        let mut summary = self.kept.run.clone();
        for (name, value) in json!(overview).as_object().into_iter().flatten() {
            summary[name] = value.clone();
        }
        write_json(&self.dir.join(SUMMARY), &summary)?;
        whole(&self.dir.join(REPORT), report::page(&self.kept, &overview)?.as_bytes())?;
        Ok(summary)
    }
}

fn key(result: &CaseResult) -> (usize, String) {
    (result.edited, result.id.clone())
}

fn line<T: Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string(value);
    let text = text.map_err(|e| Error::refused(format!("a result: {e}"), "report this"))?;
    Ok(format!("{}\n", escape::json(&text)))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    whole(path, escape::pretty_json(value).as_bytes())
}

/// Refuses a folder that holds another run's results, and says what differs.
pub(super) fn same_run(path: &Path, there: &Value, run: &Value) -> Result<()> {
    let remedy = "name another folder, or remove this one";
    let empty = serde_json::Map::new();
    let [old, new] = [there, run].map(|value| value.as_object().unwrap_or(&empty));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    match names.into_iter().find(|&name| old.get(name) != new.get(name)) {
        None => Ok(()),
        Some(name) => {
            let what = "is of another run, whose results are there";
            Err(Error::input(path, name.clone(), what, remedy))
        }
    }
}
