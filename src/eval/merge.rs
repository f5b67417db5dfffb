//! Joins the results of shares of one run.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::folder::{Folder, same_run};
use super::kept::{Kept, RUN};
use crate::base::{Error, Result};

/// Writes the folder of a run whose shares were measured apart; returns its summary. Cases stand in
/// the order of the whole.
///
/// # Errors
///
/// A share that is missing or comes twice; one of another run; a folder of another run at `out`.
pub fn merge(dirs: &[PathBuf], out: &Path, seed: u64) -> Result<Value> {
    let kept = dirs.iter().map(|dir| Kept::read(dir)).collect::<Result<Vec<_>>>()?;
    let whole = |kept: &Kept| {
        let mut run = kept.run.clone();
        (run["shard"], run["cases"]) = (Value::Null, Value::Null);
        run
    };
    let mut run = whole(&kept[0]);
    for (dir, other) in dirs.iter().zip(&kept) {
        same_run(&dir.join(RUN), &whole(other), &run)?;
    }
    let mut order = Vec::new();
    let n = dirs.len() as u64;
    for i in 0..n {
        let mut own = (0..kept.len()).filter(|&k| kept[k].run["shard"] == json!([i, n]));
        match (own.next(), own.next()) {
            (Some(place), None) => order.push(place),
            (found, _) => {
                let what = if found.is_some() { "comes twice" } else { "is in no folder" };
                let remedy = "name the folder of every share once";
                return Err(Error::refused(format!("share {i}/{n} of the run {what}"), remedy));
            }
        }
    }
    run["cases"] = json!(kept.iter().map(|kept| kept.results.len()).sum::<usize>());
    let mut folder = Folder::open(out, run)?;
    let mut results = Vec::new();
    for (i, &k) in order.iter().enumerate() {
        let placed = |mut result: super::results::CaseResult| {
            result.place = result.place * dirs.len() + i;
            result
        };
        results.extend(kept[k].results.iter().cloned().map(placed));
    }
    results.sort_by_key(|result| result.place);
    for result in results {
        if !folder.has(result.edited, &result.id) {
            folder.add(result)?;
        }
    }
    folder.kept.sessions.clear();
    for session in kept.iter().flat_map(|kept| &kept.sessions) {
        folder.ended(session.clone())?;
    }
    folder.summarise(seed)
}
