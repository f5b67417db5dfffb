//! Floor 7: does the edit hold, spread, harm; where a model holds its facts.
//!
//! A metric has one name, and its definition is in it: the same method scores 99 in one code base
//! and 24 in another, by what was counted.
//!
//! ```text
//! case ── suites ──► Sheet: items, each question once
//! model ── ask ──► answers ── rule ──► a value an item ── results ──► mean, interval, change
//! ```

pub mod ask;
pub mod compare;
pub mod drift;
pub mod fluency;
pub mod folder;
pub mod interval;
pub mod item;
pub mod kept;
pub mod measure;
pub mod merge;
pub mod metric;
pub mod overview;
pub mod report;
pub mod results;
pub mod session;
pub mod sheet;
pub mod suite;
pub mod suites;
pub mod task;
pub mod trace;
pub mod words;
