//! CounterFact (Meng et al. 2022): `requested_rewrite` is an object.
//!
//! Also read, beyond the original fields: `portability`, either our demo's list of `{prompt,
//! target_true, target_new}` or EasyEdit's one-hop question, and EasyEdit's `alternative_subject`,
//! `distracting_neighborhood_prompts` and `unrelated_relation`.

use serde_json::Value;

use super::case::{Draft, Probe, Role};
use super::easyedit::one_hop;
use super::fact::Fact;
use super::record::JsonRecord;
use crate::base::Result;

/// Fields that hold lists of prompts: what they ask for, and whose target is right.
const LISTS: [(&str, Role, &str, Whose); 5] = [
    ("paraphrase_prompts", Role::Paraphrase, "", Whose::New),
    ("neighborhood_prompts", Role::Neighbourhood, "", Whose::True),
    ("attribute_prompts", Role::Attribute, "", Whose::New),
    ("generation_prompts", Role::Generation, "", Whose::Nobodys),
    ("distracting_neighborhood_prompts", Role::Locality, "distracting_neighbour", Whose::True),
];

enum Whose {
    New,
    True,
    Nobodys,
}

/// A CounterFact record.
pub(super) fn draft(record: &JsonRecord) -> Result<Draft> {
    let (rewrite, background) = record.object("requested_rewrite")?.rewrite()?;
    let fact = Fact { id: record.id()?, ..rewrite };
    let mut probes = vec![];
    for (field, role, kind, whose) in LISTS {
        let answer = match whose {
            Whose::New => Some(fact.target_new.clone()),
            Whose::True => fact.target_true.clone(),
            Whose::Nobodys => None,
        };
        let probe = |prompt| Probe::new(role, prompt).kind(kind).answer(answer.clone());
        probes.extend(record.measure(record.texts(field))?.into_iter().map(probe));
    }
    probes.extend(record.measure(unrelated(record))?);
    probes.extend(record.measure(portability(record, &fact))?);
    Ok(Draft::new(record.own_id()?, (fact, background), probes))
}

/// EasyEdit's question about another relation of the subject.
fn unrelated(record: &JsonRecord) -> Result<Option<Probe>> {
    if record.get("unrelated_relation").is_none() {
        return Ok(None);
    }
    let other = record.object("unrelated_relation")?;
    let probe = Probe::new(Role::Locality, other.text("question")?).kind("other_attribution");
    Ok(Some(probe.answer(other.target("object")?)))
}

fn portability(record: &JsonRecord, fact: &Fact) -> Result<Vec<Probe>> {
    let mut probes = vec![];
    if let Some(Value::Array(_)) = record.get("portability") {
        for hop in record.objects("portability")? {
            let probe = Probe::new(Role::Portability, hop.text("prompt")?).kind("one_hop");
            let before = Vec::from_iter(record.measure(hop.target("target_true"))?);
            probes.push(Probe { before, ..probe.answer(hop.target("target_new")?) });
        }
    } else {
        probes.extend(one_hop(record)?);
    }
    if let Some(other) = record.maybe("alternative_subject")? {
        let prompt = fact.prompt.replace("{}", other.trim());
        let probe = Probe::new(Role::Portability, prompt).kind("subject_replace");
        probes.push(probe.answer(Some(fact.target_new.clone())));
    }
    Ok(probes)
}
