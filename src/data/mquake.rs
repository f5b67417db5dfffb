//! MQuAKE (Zhong et al. 2023): `requested_rewrite` is a list of edits, and `questions` need all of
//! them.
//!
//! Edit i of case c becomes the request "c-i", its own question a paraphrase. The questions go with
//! the case's last edit, after which their new answer holds.

use super::case::{Fact, Probe};
use super::record::{JsonRecord, Read};
use crate::base::Result;

/// The requests of a MQuAKE record; one that is broken spoils none of the others.
pub(super) fn requests(record: &JsonRecord) -> Result<Vec<Read>> {
    let case = record.id()?;
    let request = |(i, (name, value)): (usize, (String, _))| {
        let id = format!("{case}-{i}");
        let fact = record.inner(&name, value).and_then(|edit| {
            let paraphrases = edit.measure(edit.texts("question"))?;
            Ok(Fact { id: id.clone(), paraphrases, ..edit.rewrite()? })
        });
        (Some(id), fact)
    };
    let edits = record.list("requested_rewrite")?.into_iter().enumerate();
    let mut requests: Vec<Read> = edits.map(request).collect();
    let Some((_, last)) = requests.last_mut() else {
        return Err(record.error("requested_rewrite", "is empty", "give at least one edit"));
    };
    let questions = || {
        let answer = record.target("new_answer")?;
        let questions = record.texts("questions")?.into_iter();
        Result::Ok(questions.map(|question| Probe::new(question, answer.clone())).collect())
    };
    let questions = record.measure(questions())?;
    if let Ok(last) = last {
        last.portability = questions;
    }
    Ok(requests)
}
