//! Requests that ask the same prompt for different things, or twice for the same.

use std::collections::HashMap;
use std::path::Path;

use super::Fact;
use crate::base::{Error, Remedy, Result};

/// Which of several requests for one prompt counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// None: different targets are an error.
    Error,
    /// The last in the file.
    Last,
    /// The first in the file.
    First,
}

impl OnConflict {
    /// Each, by its name.
    pub const NAMED: [(&'static str, OnConflict); 3] =
        [("error", OnConflict::Error), ("last", OnConflict::Last), ("first", OnConflict::First)];

    /// Its name.
    pub fn name(self) -> &'static str {
        OnConflict::NAMED[self as usize].0
    }
}

/// A request that another one replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The request.
    pub request: Fact,
    /// The id of the one that counts.
    pub by: String,
    /// Whether that one asks for the same target, so that nothing is lost.
    pub repeats: bool,
}

/// How many conflicts an error names.
const NAMED: usize = 5;

/// The requests that count, in the order of the file, and those that do not. Two are about the
/// same if their prompts with the subjects filled in are, whatever white space is around them.
/// Their targets differ also where only one is to follow without a space.
///
/// # Errors
///
/// Different targets for one prompt, unless there is a rule.
pub fn resolve(
    file: &Path,
    requests: Vec<Fact>,
    rule: OnConflict,
) -> Result<(Vec<Fact>, Vec<Superseded>)> {
    let filled = |r: &Fact| r.filled().trim().to_owned();
    let target = |r: &Fact| (r.target_new.trim().to_owned(), r.space == Some(false));
    let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, request) in requests.iter().enumerate() {
        groups.entry(filled(request)).or_default().push(i);
    }
    let differ = |group: &Vec<usize>| {
        group.iter().any(|&i| target(&requests[i]) != target(&requests[group[0]]))
    };
    let mut conflicts: Vec<&Vec<usize>> = groups.values().filter(|g| differ(g)).collect();
    conflicts.sort();
    if rule == OnConflict::Error && !conflicts.is_empty() {
        let name = |g: &&Vec<usize>| {
            let ids: Vec<_> = g.iter().map(|&i| format!("`{}`", requests[i].id)).collect();
            ids.join(", ")
        };
        let some: Vec<_> = conflicts.iter().take(NAMED).map(name).collect();
        let more = if conflicts.len() > NAMED { "; …" } else { "" };
        let what = format!(
            "different targets for one prompt, {} times: {}{more}",
            conflicts.len(),
            some.join("; ")
        );
        let remedy = Remedy::from("take some out, or let the last or the first count")
            .option("on_conflict", Some("last"))
            .option("on_conflict", Some("first"));
        return Err(Error::Conflict { path: file.to_owned(), what, remedy: Box::new(remedy) });
    }
    // Of mere repeats the first counts.
    let counts = |group: &Vec<usize>| match rule {
        OnConflict::Last if differ(group) => group[group.len() - 1],
        _ => group[0],
    };
    let winner: HashMap<usize, usize> =
        groups.values().flat_map(|g| g.iter().map(|&i| (i, counts(g)))).collect();
    let mut kept = Vec::new();
    let mut superseded = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let by = &requests[winner[&i]];
        if winner[&i] == i {
            kept.push(request.clone());
            continue;
        }
        let repeats = target(by) == target(request);
        superseded.push(Superseded { request: request.clone(), by: by.id.clone(), repeats });
    }
    Ok((kept, superseded))
}
