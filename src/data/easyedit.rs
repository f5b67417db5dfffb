//! EasyEdit's records and KnowEdit's (Wang et al. 2023, Zhang et al. 2024), and QAEdit's (Yang et
//! al. 2025, arXiv:2502.11177): the subject is in the prompt, written out or as `{}`.
//!
//! `locality` and `portability` map names to questions, or are lists of them: one `{prompt,
//! ground_truth}` or `{loc, loc_ans}`, a list of such, or one whose two fields are lists of equal
//! length. A ground truth may be a list of aliases, or of such lists; the first is taken.

use serde_json::Value;

use super::case::{Fact, Probe};
use super::record::JsonRecord;
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
        || target(record) == "target"
        || ["locality", "portability"]
            .iter()
            .any(|field| record.get(field).is_some_and(Value::is_object))
        || text.is_some_and(|prompt| !prompt.contains("{}"))
}

/// The request of an EasyEdit, KnowEdit or QAEdit record.
pub(super) fn request(record: &JsonRecord) -> Result<Fact> {
    let (prompt, subject) = record.asked("prompt")?;
    let paraphrases =
        || Result::Ok([record.texts("rephrase_prompt")?, record.texts("rephrase")?].concat());
    Ok(Fact {
        id: record.id()?,
        prompt,
        subject,
        target_new: record.new_target(target(record))?,
        target_true: first(record.get("ground_truth")),
        paraphrases: record.measure(paraphrases())?,
        portability: record.measure(questions(record, "portability"))?,
        locality: record.measure(locality(record))?,
        ..Fact::default()
    })
}

/// The field of the new target: QAEdit says `target`.
fn target(record: &JsonRecord) -> &'static str {
    let has = |field| record.get(field).is_some();
    if !has("target_new") && has("target") { "target" } else { "target_new" }
}

fn locality(record: &JsonRecord) -> Result<Vec<Probe>> {
    let mut probes = questions(record, "locality")?;
    for (prompt, truth) in [("locality_prompt", "locality_ground_truth"), ("loc", "loc_ans")] {
        let prompt = record.maybe(prompt)?;
        probes.extend(prompt.map(|prompt| Probe::new(prompt, first(record.get(truth)))));
    }
    Ok(probes)
}

/// EasyEdit's one-hop question about the new fact, if the record has one.
pub(super) fn one_hop(record: &JsonRecord) -> Result<Option<Probe>> {
    if record.get("portability").is_none() {
        return Ok(None);
    }
    let hop = record.object("portability")?;
    Ok(Some(Probe::new(hop.text("New Question")?, hop.target("New Answer")?)))
}

fn questions(record: &JsonRecord, field: &str) -> Result<Vec<Probe>> {
    let mut probes = vec![];
    match record.get(field) {
        None => {}
        Some(Value::Array(_)) => probes.extend(listed(record, field)?),
        Some(_) => {
            let groups = record.object(field)?;
            for (name, value) in groups.fields().filter(|(_, value)| !value.is_null()) {
                match value {
                    Value::Array(_) => probes.extend(listed(&groups, name)?),
                    value => probes.extend(question_of(&groups.inner(name, value)?)?),
                }
            }
        }
    }
    Ok(probes)
}

/// The questions of a list.
fn listed(record: &JsonRecord, field: &str) -> Result<Vec<Probe>> {
    let mut probes = vec![];
    for question in record.objects(field)? {
        probes.extend(question_of(&question)?);
    }
    Ok(probes)
}

/// A question or several; none where the object is empty, as some of KnowEdit's are.
fn question_of(question: &JsonRecord) -> Result<Vec<Probe>> {
    let (prompt, truth) = match question.get("loc") {
        Some(_) => ("loc", "loc_ans"),
        None => ("prompt", "ground_truth"),
    };
    if question.fields().next().is_none() {
        return Ok(vec![]);
    }
    if !matches!(question.get(prompt), Some(Value::Array(_))) {
        return Ok(vec![Probe::new(question.text(prompt)?, first(question.get(truth)))]);
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
        probes.push(Probe::new(prompt, first(Some(truth))));
    }
    Ok(probes)
}

/// The first string in a value, however deep its lists.
fn first(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim_end().to_string()),
        Value::Array(values) => values.iter().find_map(|value| first(Some(value))),
        _ => None,
    }
}
