//! EasyEdit's records and KnowEdit's (Wang et al. 2023, Zhang et al. 2024): the subject is in the
//! prompt, written out or as `{}`.
//!
//! `locality` and `portability` map names to questions: one `{prompt, ground_truth}`, a list of
//! them, or one whose two fields are lists of equal length. A ground truth may be a list of
//! aliases, or of such lists; the first is taken.

use serde_json::Value;

use super::case::{Fact, Probe};
use super::record::JsonRecord;
use crate::base::Result;

const FIELDS: [&str; 6] = [
    "ground_truth",
    "rephrase_prompt",
    "locality_prompt",
    "locality_ground_truth",
    "loc_prompt",
    "generate_prompt",
];

/// Whether a record with a prompt is EasyEdit's rather than our own.
pub(super) fn is(record: &JsonRecord) -> bool {
    let text = record.get("prompt").and_then(Value::as_str);
    FIELDS.iter().any(|field| record.get(field).is_some())
        || ["locality", "portability"]
            .iter()
            .any(|field| record.get(field).is_some_and(Value::is_object))
        || text.is_some_and(|prompt| !prompt.contains("{}"))
}

/// The request of an EasyEdit or KnowEdit record.
pub(super) fn request(record: &JsonRecord) -> Result<Fact> {
    let subject = record.subject()?;
    let mut locality = questions(record, "locality")?;
    if let Some(prompt) = record.maybe("locality_prompt")? {
        locality.push(Probe::new(prompt, first(record.get("locality_ground_truth"))));
    }
    Ok(Fact {
        id: record.id("case_id")?,
        prompt: record.open("prompt", &subject)?,
        subject,
        target_new: record.new_target("target_new")?,
        target_true: first(record.get("ground_truth")),
        paraphrases: record.texts("rephrase_prompt")?,
        neighbourhood: vec![],
        portability: questions(record, "portability")?,
        locality,
    })
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
    if record.get(field).is_none() {
        return Ok(probes);
    }
    let groups = record.object(field)?;
    for (name, value) in groups.fields() {
        if let Value::Array(_) = value {
            for question in groups.objects(name)? {
                probes.extend(question_of(&question)?);
            }
        } else if !value.is_null() {
            probes.extend(question_of(&groups.inner(name, value)?)?);
        }
    }
    Ok(probes)
}

fn question_of(question: &JsonRecord) -> Result<Vec<Probe>> {
    let truth = question.get("ground_truth");
    if !matches!(question.get("prompt"), Some(Value::Array(_))) {
        return Ok(vec![Probe::new(question.text("prompt")?, first(truth))]);
    }
    let prompts = question.list("prompt")?;
    let truths = question.list("ground_truth")?;
    if prompts.len() != truths.len() {
        let what = format!("has {} entries for {} prompts", truths.len(), prompts.len());
        return Err(question.error("ground_truth", what, "give one answer a prompt"));
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
