//! Which requests are edited: not those that are withdrawn, broken or replaced by others.

use std::collections::HashSet;
use std::path::Path;

use super::settings::Settings;
use crate::base::units::counted;
use crate::base::{Error, Progress, Result};
use crate::data::Fact;
use crate::data::broken::{self, Broken, NAMED, OnBroken};
use crate::data::conflicts::{Superseded, resolve};
use crate::data::request::Requests;
use crate::edit::facts::{Tokenized, TokenizedFact};

/// The requests that are edited, and what became of the others.
pub(super) struct Settled {
    pub facts: Vec<TokenizedFact>,
    pub superseded: Vec<Superseded>,
    pub skipped: Vec<Broken>,
}

/// Settles what becomes of requests: those that are withdrawn or cannot be tokenised are left out,
/// and what is left is held against each other, so that what is broken takes no other's place.
pub(super) fn settle(
    file: &Path,
    requests: &Requests,
    settings: &Settings,
    tokenize: &dyn Fn(&[Fact]) -> Tokenized,
) -> Result<Settled> {
    let Requests { facts, broken: mut skipped } = without(requests.clone(), &settings.without)?;
    let (facts, more) = tokenize(&facts);
    skipped.extend(more);
    check(file, facts.is_empty(), &skipped, settings.on_broken)?;
    let requests = facts.iter().map(|fact| fact.request.clone()).collect();
    let (kept, superseded) = resolve(file, requests, settings.on_conflict)?;
    let kept: HashSet<&str> = kept.iter().map(|request| request.id.as_str()).collect();
    let facts = facts.into_iter().filter(|fact| kept.contains(fact.request.id.as_str()));
    Ok(Settled { facts: facts.collect(), superseded, skipped })
}

/// Refuses broken records, unless they are skipped and others are left.
fn check(file: &Path, none_left: bool, broken: &[Broken], rule: OnBroken) -> Result<()> {
    if broken.is_empty() || rule == OnBroken::Skip && !none_left {
        return Ok(());
    }
    Err(broken::error(file, broken, rule))
}

/// The requests without those that are withdrawn, broken or not.
fn without(requests: Requests, withdrawn: &[String]) -> Result<Requests> {
    let Requests { facts, broken } = requests;
    let sound = facts.iter().map(|fact| fact.id.as_str());
    let ids: HashSet<&str> = sound.chain(broken.iter().map(|b| b.id.as_str())).collect();
    if let Some(id) = withdrawn.iter().find(|id| !ids.contains(id.as_str())) {
        let what = format!("no request has the id `{id}`, which is to be left out");
        return Err(Error::refused(what, "ids are in the report of the edit"));
    }
    let stays = |id: &String| !withdrawn.contains(id);
    let left = Requests {
        facts: facts.into_iter().filter(|fact| stays(&fact.id)).collect(),
        broken: broken.into_iter().filter(|b| stays(&b.id)).collect(),
    };
    if left.facts.is_empty() && left.broken.is_empty() {
        return Err(Error::refused("every request is to be left out", "name fewer ids"));
    }
    Ok(left)
}

/// Says what became of the requests that are not edited, and how some of the others are read; where
/// values are searched, that is at one token of them.
pub(super) fn warn(progress: &dyn Progress, settled: &Settled, searches: bool) {
    let Settled { facts, superseded, skipped } = settled;
    if !skipped.is_empty() {
        let name = |b: &Broken| format!("`{}`, {}", b.id, b.reason());
        let some: Vec<String> = skipped.iter().take(NAMED).map(name).collect();
        let more = if skipped.len() > NAMED { "; …" } else { "" };
        let count = counted(skipped.len() as u64, "broken record");
        progress.warn(&format!("{count} skipped: {}{more}", some.join("; ")));
    }
    if !superseded.is_empty() {
        let repeats = superseded.iter().filter(|s| s.repeats).count();
        progress.warn(&format!(
            "{} left out: {repeats} ask again for the same, {} give way to others for the same \
             prompt; the report of the edit names them",
            counted(superseded.len() as u64, "request"),
            superseded.len() - repeats,
        ));
    }
    warn_of(progress, facts, &|fact| searches && !fact.request.has_subject(), &|_| {
        "the whole prompt is the subject, so the fact is read at the prompt's last token".to_owned()
    });
    warn_of(progress, facts, &|fact| fact.rows.merged > 0, &|fact| {
        format!(
            "prompt and target have other tokens together than apart, and a text that holds both \
             is not read as it is edited here, where the target begins with the token {:?}; end \
             the prompt at a word's end, without white space",
            fact.target_token
        )
    });
}

/// A warning about all facts of a kind, with words about the first.
fn warn_of(
    progress: &dyn Progress,
    facts: &[TokenizedFact],
    kind: &dyn Fn(&TokenizedFact) -> bool,
    words: &dyn Fn(&TokenizedFact) -> String,
) {
    let some: Vec<&TokenizedFact> = facts.iter().filter(|fact| kind(fact)).collect();
    if let Some(&first) = some.first() {
        let Fact { id, subject, .. } = &first.request;
        let facts = counted(some.len() as u64, "fact");
        progress.warn(&format!("{facts}, {id} ({subject}) first: {}", words(first)));
    }
}
