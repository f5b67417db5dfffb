//! CounterFact (Meng et al. 2022): `requested_rewrite` is an object.
//!
//! Read besides the original fields: `portability`, either our demo's list of `{prompt,
//! target_true, target_new}` or EasyEdit's one-hop question, and EasyEdit's `alternative_subject`,
//! `distracting_neighborhood_prompts` and `unrelated_relation`.

use serde_json::Value;

use super::record::Record;
use super::request::{Probe, Request};
use crate::base::Result;

/// The request of a CounterFact record.
pub(super) fn request(record: &Record) -> Result<Request> {
    let rewrite = record.object("requested_rewrite")?;
    let mut request = Request { id: record.id("case_id")?, ..self::rewrite(&rewrite)? };
    let target_true = &request.target_true;
    let unchanged = |field| {
        let prompts: Vec<String> = record.texts(field)?;
        let probes = prompts.into_iter().map(|prompt| Probe::new(prompt, target_true.clone()));
        Result::Ok(probes.collect::<Vec<_>>())
    };
    request.paraphrases = record.texts("paraphrase_prompts")?;
    request.neighbourhood = unchanged("neighborhood_prompts")?;
    request.locality = unchanged("distracting_neighborhood_prompts")?;
    if record.get("unrelated_relation").is_some() {
        let other = record.object("unrelated_relation")?;
        request.locality.push(Probe::new(other.text("question")?, other.target("object")?));
    }
    if let Some(Value::Array(_)) = record.get("portability") {
        for hop in record.objects("portability")? {
            request.portability.push(Probe::new(hop.text("prompt")?, hop.target("target_new")?));
        }
    } else {
        request.portability.extend(one_hop(record)?);
    }
    if let Some(other) = record.maybe("alternative_subject")? {
        let prompt = request.prompt.replace("{}", other.trim());
        request.portability.push(Probe::new(prompt, Some(request.target_new.clone())));
    }
    Ok(request)
}

/// The edit itself, as CounterFact and MQuAKE write it.
pub(super) fn rewrite(rewrite: &Record) -> Result<Request> {
    let target_true = match rewrite.get("target_true") {
        None => None,
        Some(_) => rewrite.object("target_true")?.target("str")?,
    };
    Ok(Request {
        prompt: rewrite.template("prompt")?,
        subject: rewrite.subject()?,
        target_new: rewrite.object("target_new")?.new_target("str")?,
        target_true,
        ..Request::default()
    })
}

/// EasyEdit's one-hop question about the new fact, if the record has one.
pub(super) fn one_hop(record: &Record) -> Result<Option<Probe>> {
    if record.get("portability").is_none() {
        return Ok(None);
    }
    let hop = record.object("portability")?;
    Ok(Some(Probe::new(hop.text("New Question")?, hop.target("New Answer")?)))
}
