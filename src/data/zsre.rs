//! zsRE in MEND's form (Mitchell et al. 2022): `src` is the question, `alt` what is to be
//! answered.
//!
//! `answers` holds the true answer, here `target_true`. (The public ROME and MEMIT code teaches
//! `answers[0]` instead and has no true target; MEND and EasyEdit teach `alt`, as here.)
//! Questions do not end in the answer: their prompt is the question with the subject cut out.

use super::case::{Fact, Probe};
use super::easyedit::one_hop;
use super::record::JsonRecord;
use crate::base::Result;

/// The request of a zsRE record.
pub(super) fn request(record: &JsonRecord) -> Result<Fact> {
    let subject = record.subject()?;
    let target_new = record.new_target("alt")?;
    let mut portability: Vec<Probe> = one_hop(record)?.into_iter().collect();
    if let Some(question) = record.maybe("inverse question")? {
        portability.push(Probe::new(question, Some(subject.clone())));
    }
    if let Some(question) = record.maybe("alter_subject_question")? {
        portability.push(Probe::new(question, Some(target_new.clone())));
    }
    let mut locality = vec![];
    if let Some(mut question) = record.maybe("loc")? {
        // Natural Questions are stored without their question mark.
        if !question.ends_with('?') {
            question.push('?');
        }
        locality.push(Probe::new(question, record.target("loc_ans")?));
    }
    Ok(Fact {
        id: record.id("case_id")?,
        prompt: record.open("src", &subject)?,
        subject,
        target_new,
        target_true: record.texts("answers")?.first().map(|answer| answer.trim_end().to_string()),
        paraphrases: record.texts("rephrase")?,
        neighbourhood: vec![],
        portability,
        locality,
    })
}
