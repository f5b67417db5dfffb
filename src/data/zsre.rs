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
    let (prompt, subject) = record.asked("src")?;
    let mut request = Fact {
        id: record.id()?,
        prompt,
        subject,
        target_new: record.new_target("alt")?,
        paraphrases: record.measure(record.texts("rephrase"))?,
        locality: record.measure(unrelated(record))?,
        ..Fact::default()
    };
    let answers = record.measure(record.texts("answers"))?;
    request.target_true = answers.first().map(|answer| answer.trim_end().to_string());
    request.portability = record.measure(portability(record, &request))?;
    Ok(request)
}

/// A question that has nothing to do with the edit.
fn unrelated(record: &JsonRecord) -> Result<Vec<Probe>> {
    let Some(mut question) = record.maybe("loc")? else { return Ok(vec![]) };
    // Natural Questions are stored without their question mark.
    if !question.ends_with('?') {
        question.push('?');
    }
    Ok(vec![Probe::new(question, record.target("loc_ans")?)])
}

fn portability(record: &JsonRecord, request: &Fact) -> Result<Vec<Probe>> {
    let mut probes: Vec<Probe> = one_hop(record)?.into_iter().collect();
    for (field, answer) in
        [("inverse question", &request.subject), ("alter_subject_question", &request.target_new)]
    {
        let question = record.maybe(field)?;
        probes.extend(question.map(|question| Probe::new(question, Some(answer.clone()))));
    }
    Ok(probes)
}
