//! CounterFact (Meng et al. 2022): `requested_rewrite` is an object.
//!
//! Also read, beyond the original fields: `portability`, either our demo's list of `{prompt,
//! target_true, target_new}` or EasyEdit's one-hop question, and EasyEdit's `alternative_subject`,
//! `distracting_neighborhood_prompts` and `unrelated_relation`.

use serde_json::Value;

use super::case::{Fact, Probe};
use super::easyedit::one_hop;
use super::record::JsonRecord;
use crate::base::Result;

/// The request of a CounterFact record.
pub(super) fn request(record: &JsonRecord) -> Result<Fact> {
    let rewrite = record.object("requested_rewrite")?;
    let mut request = Fact { id: record.id("case_id")?, ..rewrite.rewrite()? };
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
