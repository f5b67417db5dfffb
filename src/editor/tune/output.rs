//! Tuning from files into a file. What is read is not written over, nor what tuning did not make.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{TABLE, Tuned, Tuning};
use crate::base::{Error, Remedy, Result, escape};
use crate::data::Corpus;
use crate::edit::method::Batching;
use crate::editor::Editor;
use crate::store::place::{check_place, check_replaced};
use crate::store::write::{beside, whole};

/// Facts that are edited at once where nobody says how many, by methods that can.
const FACTS: usize = 20;

/// What is tuned from, and where to.
pub struct TuneFiles {
    /// Records of CounterFact's form: some choose settings, others report what they do.
    pub data: Vec<PathBuf>,
    /// Facts that will be edited at once; otherwise 20, or 1 where they are edited one by one.
    pub facts: Option<usize>,
    /// Text to collect statistics of keys from, where the method needs them and the editor names
    /// none.
    pub corpus: Vec<PathBuf>,
    /// The file of the hyperparameters.
    pub output: PathBuf,
}

impl TuneFiles {
    /// The folder beside the output: trials, values, statistics, the table, the curve, the report.
    pub fn folder(&self) -> PathBuf {
        beside(&self.output, ".tune")
    }
}

impl Editor {
    /// Chooses settings of the editor's method, reports on others what they do, and writes them.
    /// A call that was cut off goes on.
    ///
    /// # Errors
    ///
    /// As [`tune`](Editor::tune); files that cannot be read; an output that would replace what is
    /// read, or what tuning did not write.
    pub fn tune_files(&self, by: &TuneFiles) -> Result<Tuned> {
        self.check_output(by)?;
        self.opened.checkpoint.unchanged()?;
        let cases = self.cases(&by.data)?;
        if by.facts == Some(0) {
            let remedy = Remedy::from("name a number, or none").option("facts", None);
            return Err(Error::refused("tuning for 0 facts", remedy));
        }
        let method = self.settings.chosen()?;
        let corpus = match by.corpus.is_empty() {
            true => None,
            false => Some(Corpus::open(&by.corpus)?),
        };
        let alone = method.batching() == Batching::OneByOne;
        let facts = by.facts.unwrap_or(if alone { 1 } else { FACTS });
        let method = method.about().name.to_owned();
        let tuned = self.tune(cases, &Tuning { method, facts, corpus, dir: by.folder() })?;
        let text = escape::pretty_json(&Value::Object(tuned.hyperparameters.clone()));
        whole(&by.output, text.as_bytes())?;
        Ok(tuned)
    }

    /// Refuses, before the work, to write over what was read, or over what is no settings.
    fn check_output(&self, by: &TuneFiles) -> Result<()> {
        let files = by.data.iter().chain(&by.corpus).map(PathBuf::as_path);
        let mut inputs: Vec<&Path> = files.chain([self.dir()]).collect();
        inputs.extend(self.settings.inputs());
        check_place(&by.output, &inputs)?;
        let dir = by.folder();
        let table = dir.join(TABLE);
        check_replaced(&by.output, table.exists(), "file that tuning wrote")?;
        let mut own = ["stats", "trials", "kept"].iter().map(|name| dir.join(name));
        let empty = || fs::read_dir(&dir).is_ok_and(|mut files| files.next().is_none());
        let begun = table.exists() || own.any(|own| own.exists()) || empty();
        check_replaced(&dir, begun, "folder of tuning")
    }
}
