//! Documents of tasks that measure general ability: questions with choices, and prompts to go on
//! from.
//!
//! ```text
//! {"task": "arc_easy", "context": "Question: …\nAnswer:", "choices": ["…", "…"], "gold": 1}
//! {"task": "facts", "context": "Q: …\nA:", "answer": "…", "stops": ["\n"], "max_tokens": 16}
//! ```
//!
//! `delimiter` stands between context and choice, by default a space; `doc` is the document in the
//! form in which it was published and `doc_hash` its hash, which go into samples.
//! `tools/make_task.py` makes such files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::values::Values;
use crate::base::file::read_file;
use crate::base::{Error, Result};

/// Far above any file of tasks.
const MAX_BYTES: u64 = 1 << 32;
/// Tokens of an answer where the document does not say.
const MAX_TOKENS: usize = 64;

/// A document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskDocument {
    /// Which task it is of; fit for a file's name.
    pub task: String,
    /// Its place among the documents of its task, from 0.
    pub place: usize,
    /// As it was published; what was read, where the file has no `doc`.
    pub doc: Value,
    /// The published document's hash, where the file has one: lm-evaluation-harness's.
    pub doc_hash: Option<String>,
    /// The text before the answer.
    pub context: String,
    /// What is asked.
    pub asked: TaskQuestion,
}

/// What is asked of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskQuestion {
    /// Which of some texts is likeliest after the context.
    Choices {
        /// The texts.
        choices: Vec<String>,
        /// The right one.
        gold: usize,
        /// What stands before each.
        delimiter: String,
    },
    /// What greedy decoding says.
    Text {
        /// The right text.
        answer: String,
        /// The first of these ends it.
        stops: Vec<String>,
        /// Tokens at most.
        max_tokens: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    task: String,
    context: String,
    doc: Option<Value>,
    doc_hash: Option<String>,
    choices: Option<Vec<String>>,
    gold: Option<usize>,
    delimiter: Option<String>,
    answer: Option<String>,
    #[serde(default)]
    stops: Vec<String>,
    max_tokens: Option<usize>,
}

/// The documents of files: JSON Lines or a JSON array each.
///
/// # Errors
///
/// A file that cannot be read or has none; a record that is no document, or asks otherwise than the
/// others of its task.
pub fn tasks<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Result<Vec<TaskDocument>> {
    let (mut documents, mut counts) = (Vec::new(), BTreeMap::new());
    for file in files {
        read(file.as_ref(), &mut documents, &mut counts)?;
    }
    Ok(documents)
}

/// Of each task, how many documents there are, and whether they have choices.
type Counts = BTreeMap<String, (usize, bool)>;

fn read(path: &Path, documents: &mut Vec<TaskDocument>, counts: &mut Counts) -> Result<()> {
    let before = documents.len();
    let mut values = Values::new(path, Cow::Owned(read_file(path, MAX_BYTES)?))?;
    while let Some((place, value)) = values.next()? {
        let value = value?;
        let wrong = |field: &str, what: &str| {
            let remedy = "write task, context, and either choices with gold or an answer";
            Error::input(path, format!("{place}: {field}"), what, remedy)
        };
        let record: Record =
            serde_json::from_value(value.clone()).map_err(|e| wrong("record", &e.to_string()))?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if record.max_tokens == Some(0) || record.stops.iter().any(String::is_empty) {
            return Err(wrong("stops", "or max_tokens leave no answer"));
        }
        if record.task.is_empty() || record.task.len() > 100 || !record.task.chars().all(fits) {
            return Err(wrong("task", "is no name of letters, digits, `_`, `-` and `.`"));
        }
        if record.context.trim().is_empty() {
            return Err(wrong("context", "is empty"));
        }
        let asked = match (record.choices, record.answer) {
            (Some(choices), None) => {
                if choices.len() < 2 || choices.iter().any(|choice| choice.trim().is_empty()) {
                    return Err(wrong("choices", "are not two or more texts"));
                }
                let gold = record.gold.filter(|&gold| gold < choices.len());
                let gold = gold.ok_or_else(|| wrong("gold", "is no place among the choices"))?;
                let delimiter = record.delimiter.unwrap_or_else(|| " ".to_owned());
                TaskQuestion::Choices { choices, gold, delimiter }
            }
            (None, Some(answer)) => TaskQuestion::Text {
                answer,
                stops: record.stops,
                max_tokens: record.max_tokens.unwrap_or(MAX_TOKENS),
            },
            _ => return Err(wrong("choices", "or an answer: one of the two is needed")),
        };
        let choices = matches!(asked, TaskQuestion::Choices { .. });
        let (of_task, kind) = counts.entry(record.task.clone()).or_insert((0, choices));
        if *kind != choices {
            return Err(wrong("choices", "differ from those of the task: all have them, or none"));
        }
        *of_task += 1;
        documents.push(TaskDocument {
            task: record.task,
            place: *of_task - 1,
            doc: record.doc.unwrap_or(value),
            doc_hash: record.doc_hash,
            context: record.context,
            asked,
        });
    }
    match documents.len() == before {
        true => Err(Error::input(path, "line 1", "holds no document", "write one a line")),
        false => Ok(()),
    }
}
