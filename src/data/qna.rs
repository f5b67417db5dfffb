//! Prompts or questions with an answer, such as `counterfact_qna.json` (Gupta et al. 2024):
//! `question` goes on with `answer`, and `qna_question` asks for the same.

use super::case::{Background, Draft, Probe, Role};
use super::fact::Fact;
use super::record::JsonRecord;
use crate::base::Result;

/// A record with a question and an answer.
pub(super) fn draft(record: &JsonRecord) -> Result<Draft> {
    let (prompt, subject) = record.asked("question")?;
    let (id, target_new) = (record.id()?, record.new_target("answer")?);
    let probe = |prompt| {
        let probe = Probe::new(Role::Paraphrase, prompt).kind("question");
        probe.answer(Some(target_new.clone()))
    };
    let probes = record.measure(record.texts("qna_question"))?.into_iter().map(probe).collect();
    let fact = Fact { id, prompt, subject, target_new, ..Fact::default() };
    Ok(Draft::new(record.own_id()?, (fact, Background::default()), probes))
}
