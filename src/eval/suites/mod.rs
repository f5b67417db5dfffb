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
