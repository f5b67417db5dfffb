//! Our own records ([`request`](super::request) says what they hold).

use serde_json::Value;

use super::case::{Background, Draft, Probe, Role};
use super::fact::Fact;
use super::kinds;
use super::record::JsonRecord;
use crate::base::Result;

/// A record of ours.
pub(super) fn draft(record: &JsonRecord) -> Result<Draft> {
    let (prompt, subject) = record.asked("prompt")?;
    let target_true = record.measure(record.target("target_true"))?;
    let target_new = record.new_target("target_new")?;
    let paraphrase = |prompt| Probe::new(Role::Paraphrase, prompt).answer(Some(target_new.clone()));
    let paraphrases = record.measure(record.texts("paraphrases"))?;
    let mut drafted: Vec<Probe> = paraphrases.into_iter().map(paraphrase).collect();
    for (role, target) in [
        (Role::Neighbourhood, target_true.as_ref()),
        (Role::Portability, None),
        (Role::Locality, None),
    ] {
        drafted.extend(record.measure(probes(record, role, target))?);
    }
    let id = record.id()?;
    let fact = Fact { id, prompt, subject, target_new, target_true, ..Fact::default() };
    Ok(Draft::new(record.own_id()?, (fact, Background::default()), drafted))
}

/// The probes in the field of a role; a bare string is a prompt whose continuation is `target`.
fn probes(record: &JsonRecord, role: Role, target: Option<&String>) -> Result<Vec<Probe>> {
    let mut probes = vec![];
    for (name, value) in record.list(role.name())? {
        probes.push(match value {
            Value::String(prompt) => Probe::new(role, prompt).answer(target.cloned()),
            _ => {
                let probe = record.inner(&name, value)?;
                let kind = probe.measure(probe.maybe("kind"))?.unwrap_or_default();
                let mut spellings = Vec::from_iter(probe.target("target")?);
                if !spellings.is_empty() {
                    spellings.extend(probe.measure(probe.texts("aliases"))?);
                }
                let asks = Probe::new(role, probe.text("prompt")?).kind(&kinds::name(role, &kind));
                asks.spelt(spellings)
            }
        });
    }
    Ok(probes)
}
