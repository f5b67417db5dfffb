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
    let mut request = Fact { id: record.id()?, ..rewrite.rewrite()? };
    let target_true = &request.target_true;
    let unchanged = |field| {
        let prompts: Vec<String> = record.texts(field)?;
        let probes = prompts.into_iter().map(|prompt| Probe::new(prompt, target_true.clone()));
        Result::Ok(probes.collect::<Vec<_>>())
    };
    request.neighbourhood = record.measure(unchanged("neighborhood_prompts"))?;
    request.locality = record.measure(unchanged("distracting_neighborhood_prompts"))?;
    request.locality.extend(record.measure(unrelated(record))?);
    request.paraphrases = record.measure(record.texts("paraphrase_prompts"))?;
    request.portability = record.measure(portability(record, &request))?;
    Ok(request)
}

/// EasyEdit's question about another relation of the subject.
fn unrelated(record: &JsonRecord) -> Result<Option<Probe>> {
    if record.get("unrelated_relation").is_none() {
        return Ok(None);
    }
    let other = record.object("unrelated_relation")?;
    Ok(Some(Probe::new(other.text("question")?, other.target("object")?)))
}

fn portability(record: &JsonRecord, request: &Fact) -> Result<Vec<Probe>> {
    let mut probes = vec![];
    if let Some(Value::Array(_)) = record.get("portability") {
        for hop in record.objects("portability")? {
            probes.push(Probe::new(hop.text("prompt")?, hop.target("target_new")?));
        }
    } else {
        probes.extend(one_hop(record)?);
    }
    if let Some(other) = record.maybe("alternative_subject")? {
        let prompt = request.prompt.replace("{}", other.trim());
        probes.push(Probe::new(prompt, Some(request.target_new.clone())));
    }
    Ok(probes)
}
