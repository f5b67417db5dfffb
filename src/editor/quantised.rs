//! What a GGUF file says after patches were rounded into it: the requests of the patches, asked of
//! the written file.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{Editor, report};
use crate::base::file::read_file;
use crate::base::{Error, Progress, Remedy, Result};
use crate::data::request::{self, Fields, MAX_BYTES};
use crate::data::{Contexts, Fact};
use crate::edit::fact_report::score;
use crate::edit::facts::{Reading, tokenize};
use crate::edit::prompts::FactRows;
use crate::model::score::Missed;

/// How a written file takes one fact.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WrittenFact {
    /// The request's.
    pub id: String,
    /// The prompt, its subject filled in.
    pub prompt: String,
    /// What it should be continued with.
    pub target_new: String,
    /// p of the target.
    pub p_target: f64,
    /// Whether greedy decoding says the target.
    pub taken: bool,
    /// Where it does not: what is said in the place of the first token that is missed.
    pub says: Option<String>,
}

/// The requests of some patches: those of a file, else of the report beside each patch.
///
/// # Errors
///
/// A file that cannot be read, or holds no request; a patch without a report, where no file is
/// named.
pub fn requests(file: Option<&Path>, patches: &[PathBuf]) -> Result<Vec<Fact>> {
    if let Some(file) = file {
        return request::read(file);
    }
    let mut all = Vec::new();
    for patch in patches {
        let path = report::path(patch);
        if !path.is_file() {
            let what = "is not there, so nobody knows what the patch should make the file say";
            let remedy = Remedy::from("name the file of its requests");
            let remedy = remedy.option("requests", None);
            return Err(Error::input(path, "report", what, remedy));
        }
        let text = read_file(&path, MAX_BYTES)?;
        // Requests that were left out say so; what is no JSON is told by its reader.
        let edited = |line: &&[u8]| {
            let line: Value = serde_json::from_slice(line).unwrap_or_default();
            ["superseded_by", "skipped"].iter().all(|field| line.get(field).is_none())
        };
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let lines: Vec<&[u8]> = lines.filter(edited).collect();
        all.extend(request::parse_each(&path, &lines.join(&b'\n'), Fields::Edit)?.facts);
    }
    Ok(all)
}

/// How an open model takes each fact. Facts that it cannot run are told to `progress`.
///
/// # Errors
///
/// Cancellation; a device without room.
pub fn written_facts(
    editor: &Editor,
    facts: &[Fact],
    space: Option<bool>,
    progress: &dyn Progress,
) -> Result<Vec<WrittenFact>> {
    let (model, tokenizer) = (&editor.opened.model, &*editor.opened.tokenizer);
    let reading = Reading { space, ..Reading::plain(tokenizer) };
    let (facts, broken) = tokenize(model, reading, facts, &Contexts::bare());
    for one in broken {
        progress.warn(&format!("record `{}` is not asked: {}", one.id, one.reason()));
    }
    let rows: Vec<&FactRows> = facts.iter().map(|fact| &fact.rows).collect();
    let scores = score(model, &rows, progress)?;
    let written = facts.iter().zip(&scores).map(|(fact, score)| {
        let missed = score.missed();
        let text = |Missed { says, .. }: Missed| {
            says.map_or("nothing finite".to_owned(), |id| tokenizer.token_text(id))
        };
        WrittenFact {
            id: fact.request.id.clone(),
            prompt: fact.request.filled(),
            target_new: fact.request.target_new.clone(),
            p_target: score.probability(),
            taken: missed.is_none(),
            says: missed.map(text),
        }
    });
    Ok(written.collect())
}
