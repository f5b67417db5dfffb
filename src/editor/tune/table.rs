//! The table of what was tried.

use std::fs;

use serde_json::{Value, json};

use super::point::TuneTrial;
use super::split::Split;
use super::tuning::Tuning;
use crate::base::{Error, Result, escape};
use crate::data::Case;
use crate::store::write::whole;

/// The file's name.
pub const TABLE: &str = "table.json";

/// Refuses the table of another method, or of other records: it would be lost.
///
/// # Errors
///
/// It is there.
pub fn check(by: &Tuning, split: &Split) -> Result<()> {
    let path = by.dir.join(TABLE);
    let Ok(bytes) = fs::read(&path) else { return Ok(()) };
    let there: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let own = [("method", &by.method), ("split", &split.hash)];
    match own.into_iter().find(|(name, own)| there[*name] != json!(own)) {
        None => Ok(()),
        Some((name, _)) => {
            let what = "is of another run, whose trials are there";
            Err(Error::input(path, name, what, "name another output, or remove this folder"))
        }
    }
}

/// Writes what was tried so far, and at last what was chosen.
///
/// # Errors
///
/// A file that cannot be written.
pub fn write(by: &Tuning, split: &Split, tried: &[TuneTrial], chosen: Option<Value>) -> Result<()> {
    let ids = |cases: &[Case]| cases.iter().map(|case| case.id.clone()).collect::<Vec<_>>();
    let mut table = json!({
        "method": by.method, "facts": by.facts, "split": split.hash, "choose": ids(&split.choose),
        "report": ids(&split.report), "trials": tried,
    });
    for (name, value) in chosen.iter().filter_map(Value::as_object).flatten() {
        table[name] = value.clone();
    }
    whole(&by.dir.join(TABLE), escape::pretty_json(&table).as_bytes())
}
