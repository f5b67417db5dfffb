//! What is asked about a case, by who published it: each file has its metrics and the items of a
//! case.

pub mod counterfact;
pub mod easyedit;
pub mod generation;
pub mod mquake;
pub mod probes;
pub mod wild;
pub mod zsre;

use super::metric::{Metric, Named};
use super::suite::Suite;
use crate::base::{Error, Remedy, Result};

/// All of them, in the order of results.
pub const SUITES: &[Suite] = &[
    counterfact::SUITE,
    counterfact::PLUS,
    counterfact::KL,
    zsre::SUITE,
    easyedit::SUITE,
    probes::LOCALITY,
    probes::PORTABILITY_SUITE,
    mquake::SUITE,
    wild::SUITE,
    generation::SUITE,
];

/// Those of some names, or where there are none those that are measured by default.
///
/// # Errors
///
/// A name of none.
pub fn chosen<S: AsRef<str>>(names: &[S]) -> Result<Vec<&'static Suite>> {
    let known = || SUITES.iter().map(|suite| suite.name);
    let unknown = names.iter().map(AsRef::as_ref).find(|&name| known().all(|own| own != name));
    if let Some(name) = unknown {
        let all: Vec<&str> = known().collect();
        let remedy = Remedy::from(format!("name some of {}", all.join(", ")));
        let what = format!("no metrics are called {name}");
        return Err(Error::refused(what, remedy.option("metrics", None)));
    }
    let asked = |suite: &&Suite| match names.is_empty() {
        true => suite.by_default,
        false => names.iter().any(|name| name.as_ref() == suite.name),
    };
    Ok(SUITES.iter().filter(asked).collect())
}

/// The metric of a name in results, and its kind.
pub fn metric(name: &str) -> Option<Named> {
    let all = SUITES.iter().flat_map(|suite| suite.metrics);
    let kind = |metric: &Metric| match name.strip_prefix(metric.name)? {
        "" => Some(""),
        kind => kind.strip_prefix('.'),
    };
    let found = all.filter_map(|metric| Some(metric.of(kind(metric)?)));
    found.min_by_key(|named| named.kind.len())
}

/// Where the metric of a name stands in the order of results.
pub fn place(name: &str) -> usize {
    let found = metric(name).map(|named| named.metric);
    let mut all = SUITES.iter().flat_map(|suite| suite.metrics);
    all.position(|metric| found == Some(*metric)).unwrap_or(usize::MAX)
}
