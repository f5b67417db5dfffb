//! WikiBigEdit as released (Thede et al. 2025, arXiv:2503.05683): `update` is the question, `ans`
//! what is to be answered. (LocFT's copy is in EasyEdit's form.)

use super::case::{Fact, Probe};
use super::record::JsonRecord;
use crate::base::Result;

/// The request of a WikiBigEdit record.
pub(super) fn request(record: &JsonRecord) -> Result<Fact> {
    let (prompt, subject) = record.asked("update")?;
    let paraphrases =
        || Result::Ok([record.texts("rephrase")?, record.texts("personas")?].concat());
    let probe = |question, answer| {
        let question = record.maybe(question)?;
        let probe = |question| Ok(Probe::new(question, record.target(answer)?));
        question.map(probe).transpose().map(Vec::from_iter)
    };
    Ok(Fact {
        id: record.id()?,
        prompt,
        subject,
        target_new: record.new_target("ans")?,
        paraphrases: record.measure(paraphrases())?,
        portability: record.measure(probe("mhop", "mhop_ans"))?,
        locality: record.measure(probe("loc", "loc_ans"))?,
        ..Fact::default()
    })
}
