//! The table of what was tried.

use serde_json::{Value, json};

use super::point::TuneTrial;
use super::split::Split;
use super::tuning::Tuning;
use crate::base::{Result, escape};
use crate::data::Case;
use crate::store::write::whole;

/// Writes what was tried so far, and at last what was chosen.
///
/// # Errors
///
/// A file that cannot be written.
pub fn write(by: &Tuning, split: &Split, tried: &[TuneTrial], chosen: Option<Value>) -> Result<()> {
    let ids = |cases: &[Case]| cases.iter().map(|case| case.id.clone()).collect::<Vec<_>>();
    let mut table = json!({
        "facts": by.facts, "split": split.hash, "choose": ids(&split.choose),
        "report": ids(&split.report), "trials": tried,
    });
    for (name, value) in chosen.iter().filter_map(Value::as_object).flatten() {
        table[name] = value.clone();
    }
    whole(&by.dir.join("table.json"), escape::pretty_json(&table).as_bytes())
}
