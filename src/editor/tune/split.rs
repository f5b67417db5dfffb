//! Which cases choose settings, and which report what the chosen ones do.
//!
//! ```text
//! pool      of each subject one case that CounterFact's metrics can be measured of
//! groups    cases of one (relation, new object), in an order that seed and texts decide
//! report    the first groups, up to 60 cases
//! choose    the groups after them, up to 40 cases
//! ```
//!
//! So no subject and no (relation, new object) is on both sides, and settings are not reported on
//! what they were chosen by. The order of the file does not matter. Source of the sizes: 20 of 20
//! leave 86 % possible, 60 of 60 leave 95 % (Clopper and Pearson).

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Error, Result};
use crate::data::{Case, Role};
use crate::store::Fingerprint;

/// Cases that report at most.
const REPORT: usize = 60;
/// Cases that choose at most.
const CHOOSE: usize = 40;
/// Cases below which there is no choosing.
const LEAST: usize = 20;

/// The two sides.
#[derive(Clone, Debug)]
pub struct Split {
    /// Cases by which settings are chosen.
    pub choose: Vec<Case>,
    /// Cases on which the chosen ones are reported, once.
    pub report: Vec<Case>,
    /// A name for both sides.
    pub hash: String,
}

impl Split {
    /// Splits cases; of fewer than 100 that can be used, three fifths report.
    ///
    /// # Errors
    ///
    /// Too few that can be used.
    pub fn new(cases: Vec<Case>, seed: u64) -> Result<Split> {
        let all = cases.len();
        let mut pool: Vec<(String, Case)> =
            cases.into_iter().filter(can_be_used).map(|case| (order(&case, seed), case)).collect();
        pool.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut subjects = BTreeSet::new();
        pool.retain(|(_, case)| subjects.insert(case.facts[0].subject.trim().to_lowercase()));
        if pool.len() < LEAST {
            let what = format!(
                "{} of {all} records can choose settings, and {LEAST} are the least: with a \
                 subject of their own, an old target, paraphrases and neighbours",
                pool.len()
            );
            return Err(Error::refused(what, "give records of CounterFact's form"));
        }
        let most = REPORT.min(pool.len() * 3 / 5);
        let mut groups: BTreeMap<String, Vec<(String, Case)>> = BTreeMap::new();
        for (place, case) in pool {
            groups.entry(group(&case, seed)).or_default().push((place, case));
        }
        let mut groups = groups.into_values();
        let report = take(&mut groups, most);
        let choose = take(&mut groups, CHOOSE);
        if choose.len() < LEAST / 2 {
            let what = format!(
                "{} records are left to choose settings, and {} are the least: {} report, and no \
                 relation with a new object of theirs may choose",
                choose.len(),
                LEAST / 2,
                report.len()
            );
            return Err(Error::refused(what, "give more records, of more relations and objects"));
        }
        let mut hash = Fingerprint::default();
        for side in [&choose, &report] {
            hash.field(&(side.len() as u64).to_le_bytes());
            for case in side {
                hash.field(order(case, seed).as_bytes());
                hash.field(case.facts[0].target_true.as_deref().unwrap_or_default().as_bytes());
                case.probes.iter().for_each(|probe| hash.field(probe.prompt.as_bytes()));
            }
        }
        Ok(Split { choose, report, hash: hash.hex() })
    }
}

/// Whether efficacy, paraphrases and neighbours can be measured of it.
fn can_be_used(case: &Case) -> bool {
    let has = |role| case.probes.iter().any(|probe| probe.role == role);
    let fact = case.facts.first().filter(|fact| !fact.subject.trim().is_empty());
    case.facts.len() == 1
        && fact.is_some_and(|fact| fact.target_true.is_some())
        && has(Role::Paraphrase)
        && has(Role::Neighbourhood)
}

/// Whole groups until there are so many cases; of the last as many as fit. What is left of it is
/// on no side.
fn take(groups: &mut impl Iterator<Item = Vec<(String, Case)>>, most: usize) -> Vec<Case> {
    let mut side = Vec::new();
    while side.len() < most {
        let Some(group) = groups.next() else { break };
        side.extend(group);
    }
    side.truncate(most);
    side.sort_by(|(a, _), (b, _)| a.cmp(b));
    side.into_iter().map(|(_, case)| case).collect()
}

/// Where a case stands among those of its side.
fn order(case: &Case, seed: u64) -> String {
    let fact = &case.facts[0];
    let relation = case.background.first().and_then(|known| known.relation.as_deref());
    let relation = relation.unwrap_or_default();
    drawn("case", seed, &[&fact.subject, &fact.prompt, &fact.target_new, relation])
}

/// Where the cases of its relation and new object stand. A relation without a name is its prompt.
fn group(case: &Case, seed: u64) -> String {
    let fact = &case.facts[0];
    let relation = case.background.first().and_then(|known| known.relation.as_deref());
    let object = fact.target_new.trim().to_lowercase();
    drawn("group", seed, &[relation.unwrap_or(&fact.prompt), &object])
}

fn drawn(what: &str, seed: u64, of: &[&str]) -> String {
    let mut all = Fingerprint::default();
    all.field(what.as_bytes());
    all.field(&seed.to_le_bytes());
    of.iter().for_each(|text| all.field(text.as_bytes()));
    all.hex()
}
