//! Which form a record is written in, by its fields.

use serde_json::Value;

use super::case::{Draft, Form};
use super::record::JsonRecord;
use super::{counterfact, easyedit, mquake, native, qna, wikibigedit, zsre};
use crate::base::Result;

/// A record's form, and what its reader makes of it.
pub(super) fn draft(record: &JsonRecord) -> Result<(Form, Draft)> {
    let space = record.space()?;
    let form = form(record)?;
    let mut draft = match form {
        Form::Native => native::draft(record),
        Form::CounterFact => counterfact::draft(record),
        Form::Zsre => zsre::draft(record),
        Form::EasyEdit | Form::QaEdit => easyedit::draft(record),
        Form::WikiBigEdit => wikibigedit::draft(record),
        Form::Mquake => mquake::draft(record),
        Form::Qna => qna::draft(record),
    }?;
    for (fact, _) in draft.facts.iter_mut().filter_map(|(_, read)| read.as_mut().ok()) {
        fact.space = space;
    }
    Ok((form, draft))
}

fn form(record: &JsonRecord) -> Result<Form> {
    let has = |field| record.get(field).is_some();
    Ok(match record.get("requested_rewrite") {
        Some(Value::Array(_)) => Form::Mquake,
        Some(_) => Form::CounterFact,
        None if has("src") => Form::Zsre,
        None if has("update") && has("ans") => Form::WikiBigEdit,
        None if has("prompt") && easyedit::is_qaedit(record) => Form::QaEdit,
        None if has("prompt") && easyedit::is(record) => Form::EasyEdit,
        None if has("prompt") => Form::Native,
        None if has("question") && has("answer") => Form::Qna,
        None => {
            let what = format!("is missing, and no known form has the fields {}", record.names());
            let remedy = r#"write {"prompt": "… {} …", "subject": "…", "target_new": "…"}"#;
            return Err(record.error("prompt", what, remedy));
        }
    })
}
