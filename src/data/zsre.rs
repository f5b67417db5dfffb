//! zsRE in MEND's form (Mitchell et al. 2022): `src` is the question, `alt` what is to be
//! answered.
//!
//! `answers` holds the true answer, here `target_true`. (The public ROME and MEMIT code teaches
//! `answers[0]` instead and has no true target; MEND and EasyEdit teach `alt`, as here.)
//! Questions do not end in the answer: their prompt is the question with the subject cut out.

use super::case::{Background, Draft, Probe, Role};
use super::easyedit::one_hop;
use super::fact::Fact;
use super::record::JsonRecord;
use crate::base::Result;

/// A zsRE record.
pub(super) fn draft(record: &JsonRecord) -> Result<Draft> {
    let (prompt, subject) = record.asked("src")?;
    let target_new = record.new_target("alt")?;
    let paraphrase = |prompt| Probe::new(Role::Paraphrase, prompt).answer(Some(target_new.clone()));
    let paraphrases = record.measure(record.texts("rephrase"))?;
    let mut probes: Vec<Probe> = paraphrases.into_iter().map(paraphrase).collect();
    probes.extend(record.measure(unrelated(record))?);
    let answers = record.measure(record.texts("answers"))?;
    let mut answers = answers.iter().map(|answer| answer.trim_end().to_owned());
    let target_true = answers.next();
    let background = Background { true_aliases: answers.collect(), ..Background::default() };
    let id = record.id()?;
    let fact = Fact { id, prompt, subject, target_new, target_true, ..Fact::default() };
    probes.extend(record.measure(portability(record, &fact))?);
    Ok(Draft::new(record.own_id()?, (fact, background), probes))
}

/// A question that has nothing to do with the edit.
fn unrelated(record: &JsonRecord) -> Result<Option<Probe>> {
    let Some(mut question) = record.maybe("loc")? else { return Ok(None) };
    // Natural Questions are stored without their question mark.
    if !question.ends_with('?') {
        question.push('?');
    }
    let probe = Probe::new(Role::Locality, question).kind("unrelated");
    Ok(Some(probe.answer(record.target("loc_ans")?)))
}

fn portability(record: &JsonRecord, fact: &Fact) -> Result<Vec<Probe>> {
    let mut probes: Vec<Probe> = one_hop(record)?.into_iter().collect();
    for (field, kind, answer) in [
        ("inverse question", "inverse_relation", &fact.subject),
        ("alter_subject_question", "subject_replace", &fact.target_new),
    ] {
        let probe = |question| {
            Probe::new(Role::Portability, question).kind(kind).answer(Some(answer.clone()))
        };
        probes.extend(record.maybe(field)?.map(probe));
    }
    Ok(probes)
}
