//! Prompts or questions with an answer, such as `counterfact_qna.json` (Gupta et al. 2024):
//! `question` goes on with `answer`, and `qna_question` asks for the same.

use super::case::Fact;
use super::record::JsonRecord;
use crate::base::Result;

/// The request of a record with a question and an answer.
pub(super) fn request(record: &JsonRecord) -> Result<Fact> {
    let (prompt, subject) = record.asked("question")?;
    Ok(Fact {
        id: record.id()?,
        prompt,
        subject,
        target_new: record.new_target("answer")?,
        paraphrases: record.measure(record.texts("qna_question"))?,
        ..Fact::default()
    })
}
