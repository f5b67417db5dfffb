//! MQuAKE (Zhong et al. 2023): `requested_rewrite` is a list of edits, and `questions` need all of
//! them.
//!
//! Edit i of case c becomes the request "c-i", its own question a paraphrase. The questions go with
//! the case's last edit, after which their new answer holds.

use super::case::{Fact, Probe};
use super::record::JsonRecord;
use crate::base::Result;

/// The requests of a MQuAKE record.
pub(super) fn requests(record: &JsonRecord) -> Result<Vec<Fact>> {
    let case = record.id()?;
    let mut requests = vec![];
    for (i, edit) in record.objects("requested_rewrite")?.iter().enumerate() {
        requests.push(Fact {
            id: format!("{case}-{i}"),
            paraphrases: edit.measure(edit.texts("question"))?,
            ..edit.rewrite()?
        });
    }
    let Some(last) = requests.last_mut() else {
        return Err(record.error("requested_rewrite", "is empty", "give at least one edit"));
    };
    let questions = || {
        let answer = record.target("new_answer")?;
        let questions = record.texts("questions")?.into_iter();
        Result::Ok(questions.map(|question| Probe::new(question, answer.clone())).collect())
    };
    last.portability = record.measure(questions())?;
    Ok(requests)
}
