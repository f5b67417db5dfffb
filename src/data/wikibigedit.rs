//! WikiBigEdit as released (Thede et al. 2025, arXiv:2503.05683): `update` is the question, `ans`
//! what is to be answered. (LocFT's copy is in EasyEdit's form.)

use super::case::{Background, Draft, Probe, Role};
use super::fact::Fact;
use super::record::JsonRecord;
use crate::base::Result;

/// A WikiBigEdit record.
pub(super) fn draft(record: &JsonRecord) -> Result<Draft> {
    let (prompt, subject) = record.asked("update")?;
    let (id, target_new) = (record.id()?, record.new_target("ans")?);
    let paraphrases = || {
        let mut probes = vec![];
        for (field, kind) in [("rephrase", ""), ("personas", "persona")] {
            let probe = |prompt| Probe::new(Role::Paraphrase, prompt).kind(kind);
            probes.extend(record.texts(field)?.into_iter().map(probe));
        }
        Result::Ok(probes)
    };
    let new = |probe: Probe| probe.answer(Some(target_new.clone()));
    let mut probes: Vec<Probe> = record.measure(paraphrases())?.into_iter().map(new).collect();
    for (role, kind, question, answer) in [
        (Role::Portability, "multi_hop", "mhop", "mhop_ans"),
        (Role::Locality, "unrelated", "loc", "loc_ans"),
    ] {
        let probe = |question: String| {
            Ok(Probe::new(role, question).kind(kind).answer(record.target(answer)?))
        };
        let read = record.maybe(question).and_then(|question| question.map(probe).transpose());
        probes.extend(record.measure(read)?);
    }
    let fact = Fact { id, prompt, subject, target_new, ..Fact::default() };
    Ok(Draft::new(record.own_id()?, (fact, Background::default()), probes))
}
