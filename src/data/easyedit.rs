//! EasyEdit's records and KnowEdit's (Wang et al. 2023, Zhang et al. 2024), and QAEdit's (Yang et
//! al. 2025, arXiv:2502.11177): the subject is in the prompt, written out or as `{}`.
//!
//! `locality` and `portability` map the names of kinds to questions, or are lists of them: one
//! `{prompt, ground_truth}` or `{loc, loc_ans}`, a list of such, or one whose two fields are lists
//! of equal length. A ground truth may be a list of spellings, or of answers with theirs; the first
//! of all is the target.

use serde_json::Value;

use super::case::{Background, Draft, MACHINE_WRITTEN, Probe, Role};
use super::fact::Fact;
use super::kinds;
use super::record::{JsonRecord, answers};
use crate::base::Result;

const FIELDS: [&str; 8] = [
    "ground_truth",
    "rephrase_prompt",
    "rephrase",
    "locality_prompt",
    "locality_ground_truth",
    "loc_prompt",
    "loc",
    "generate_prompt",
];

/// Whether a record with a prompt is EasyEdit's rather than our own.
pub(super) fn is(record: &JsonRecord) -> bool {
    let text = record.get("prompt").and_then(Value::as_str);
    FIELDS.iter().any(|field| record.get(field).is_some())
        || is_qaedit(record)
        || ["locality", "portability"]
            .iter()
            .any(|field| record.get(field).is_some_and(Value::is_object))
        || text.is_some_and(|prompt| !prompt.contains("{}"))
}

/// An EasyEdit, KnowEdit or QAEdit record.
pub(super) fn draft(record: &JsonRecord) -> Result<Draft> {
    let (prompt, subject) = record.asked("prompt")?;
    let paraphrases =
        || Result::Ok([record.texts("rephrase_prompt")?, record.texts("rephrase")?].concat());
    let mut truths = record.answers("ground_truth").into_iter().flatten();
    let fact = Fact {
        id: record.id()?,
        prompt,
        subject,
        target_new: record.new_target(target(record))?,
        target_true: truths.next(),
        ..Fact::default()
    };
    let background = Background { true_aliases: truths.collect(), ..Background::default() };
    let new = |prompt| Probe::new(Role::Paraphrase, prompt).answer(Some(fact.target_new.clone()));
    let paraphrases = record.measure(paraphrases())?.into_iter().map(new);
    let written = record.measure(record.texts("generate_prompt"))?.into_iter().map(new);
    let mut probes: Vec<Probe> = paraphrases.collect();
    probes.extend(written.map(|probe| probe.kind(MACHINE_WRITTEN)));
    probes.extend(record.measure(questions(record, Role::Portability))?);
    probes.extend(record.measure(locality(record))?);
    Ok(Draft::new(record.own_id()?, (fact, background), probes))
}

/// Whether a record is QAEdit's, which says `target` for the new one.
pub(super) fn is_qaedit(record: &JsonRecord) -> bool {
    record.get("target_new").is_none() && record.get("target").is_some()
}

/// The field of the new target.
fn target(record: &JsonRecord) -> &'static str {
    if is_qaedit(record) { "target" } else { "target_new" }
}

fn locality(record: &JsonRecord) -> Result<Vec<Probe>> {
    let mut probes = questions(record, Role::Locality)?;
    for (prompt, truth, kind) in [
        ("locality_prompt", "locality_ground_truth", "neighbourhood"),
        ("loc", "loc_ans", "unrelated"),
    ] {
        let prompt = record.maybe(prompt)?;
        let asks = |prompt| Probe::new(Role::Locality, prompt).kind(kind);
        let answers = record.answers(truth);
        probes.extend(prompt.map(|prompt| Probe { answers, ..asks(prompt) }));
    }
    Ok(probes)
}

/// EasyEdit's one-hop question about the new fact, if the record has one.
pub(super) fn one_hop(record: &JsonRecord) -> Result<Option<Probe>> {
    if record.get("portability").is_none() {
        return Ok(None);
    }
    let hop = record.object("portability")?;
    let probe = Probe::new(Role::Portability, hop.text("New Question")?).kind("one_hop");
    Ok(Some(probe.answer(hop.target("New Answer")?)))
}

/// The questions in the field of a role, under the names of their kinds or without.
fn questions(record: &JsonRecord, role: Role) -> Result<Vec<Probe>> {
    let field = role.name();
    let mut probes = vec![];
    match record.get(field) {
        None => {}
        Some(Value::Array(_)) => probes.extend(listed(record, field, role)?),
        Some(_) => {
            let groups = record.object(field)?;
            for (name, value) in groups.fields().filter(|(_, value)| !value.is_null()) {
                let group = match value {
                    Value::Array(_) => listed(&groups, name, role)?,
                    value => question_of(&groups.inner(name, value)?, role)?,
                };
                let kind = kinds::name(role, name);
                probes.extend(group.into_iter().map(|probe| probe.kind(&kind)));
            }
        }
    }
    Ok(probes)
}

/// The questions of a list.
fn listed(record: &JsonRecord, field: &str, role: Role) -> Result<Vec<Probe>> {
    let mut probes = vec![];
    for question in record.objects(field)? {
        probes.extend(question_of(&question, role)?);
    }
    Ok(probes)
}

/// A question or several; none where the object is empty, as some of KnowEdit's are.
fn question_of(question: &JsonRecord, role: Role) -> Result<Vec<Probe>> {
    let (prompt, truth, kind) = match question.get("loc") {
        Some(_) => ("loc", "loc_ans", "unrelated"),
        None => ("prompt", "ground_truth", ""),
    };
    let probe = |prompt: String, answers| Probe { answers, ..Probe::new(role, prompt).kind(kind) };
    if question.fields().next().is_none() {
        return Ok(vec![]);
    }
    if !matches!(question.get(prompt), Some(Value::Array(_))) {
        return Ok(vec![probe(question.text(prompt)?, question.answers(truth))]);
    }
    let prompts = question.list(prompt)?;
    let truths = question.list(truth)?;
    if prompts.len() != truths.len() {
        let what = format!("has {} entries for {} prompts", truths.len(), prompts.len());
        return Err(question.error(truth, what, "give one answer a prompt"));
    }
    let mut probes = vec![];
    for ((name, prompt), (_, truth)) in prompts.into_iter().zip(truths) {
        let Value::String(prompt) = prompt else {
            return Err(question.not(&name, prompt, "a string"));
        };
        probes.push(probe(prompt.clone(), answers(truth)));
    }
    Ok(probes)
}
