//! MQuAKE (Zhong et al. 2023): `requested_rewrite` is a list of edits, and `questions` need all of
//! them.
//!
//! Edit i of case c becomes the request "c-i", its own question a paraphrase. The questions go with
//! the case's last edit, after which their new answer holds.

use super::case::{Draft, Hop, Probe, Role};
use super::fact::Fact;
use super::record::JsonRecord;
use crate::base::Result;

/// A MQuAKE record; an edit that is broken spoils none of the others.
pub(super) fn draft(record: &JsonRecord) -> Result<Draft> {
    let case = record.id()?;
    let (mut facts, mut probes) = (vec![], vec![]);
    for (i, (name, value)) in record.list("requested_rewrite")?.into_iter().enumerate() {
        let id = format!("{case}-{i}");
        let read = record.inner(&name, value).and_then(|edit| {
            let questions = edit.measure(edit.texts("question"))?;
            let (fact, background) = edit.rewrite()?;
            probes.extend(questions.into_iter().map(|question| {
                let probe = Probe::new(Role::Paraphrase, question).kind("question");
                Probe { fact: i, ..probe.answer(Some(fact.target_new.clone())) }
            }));
            Ok((Fact { id: id.clone(), ..fact }, background))
        });
        facts.push((Some(id), read));
    }
    let Some(last) = facts.len().checked_sub(1) else {
        return Err(record.error("requested_rewrite", "is empty", "give at least one edit"));
    };
    let of_last = |probe| Probe { fact: last, ..probe };
    probes.extend(record.measure(questions(record))?.into_iter().map(of_last));
    let hops = record.measure(hops(record, "new_single_hops", "new_triples"))?;
    let old_hops = record.measure(self::hops(record, "single_hops", "triples"))?;
    Ok(Draft { facts, probes, hops, old_hops })
}

/// The questions over all edits, each of which asks for the same.
fn questions(record: &JsonRecord) -> Result<Vec<Probe>> {
    let spellings = |answer, aliases| {
        let first = record.target(answer)?;
        Result::Ok(first.into_iter().chain(record.measure(record.texts(aliases))?).collect())
    };
    let new: Vec<String> = spellings("new_answer", "new_answer_alias")?;
    let before: Vec<String> = record.measure(spellings("answer", "answer_alias"))?;
    let probe = |question| {
        let probe = Probe::new(Role::Portability, question).kind("multi_hop").spelt(new.clone());
        Probe { before: before.clone(), ..probe }
    };
    Ok(record.texts("questions")?.into_iter().map(probe).collect())
}

/// The chain of facts in `field`; their relations are in the triples of `orig`.
fn hops(record: &JsonRecord, field: &str, triples: &str) -> Result<Vec<Hop>> {
    let triples = record.get("orig").and_then(|orig| orig.get(triples));
    let relation = |i: usize| Some(triples?.get(i)?.get(1)?.as_str()?.to_owned());
    let hop = |(i, hop): (usize, JsonRecord)| {
        let mut answers = vec![hop.new_target("answer")?];
        answers.extend(hop.texts("answer_alias")?);
        let (question, cloze) = (hop.text("question")?, hop.text("cloze")?);
        Ok(Hop { question, cloze, relation: relation(i), answers })
    };
    record.objects(field)?.into_iter().enumerate().map(hop).collect()
}
