//! A set of metrics that are measured together.

use super::item::TestItem;
use super::metric::Metric;
use super::words::Words;
use crate::base::Result;
use crate::data::Case;

/// A set of metrics that are measured together.
pub struct Suite {
    /// What users call it, and the first word of its metrics' names.
    pub name: &'static str,
    /// Its metrics.
    pub metrics: &'static [&'static Metric],
    /// What it asks about a case: nothing where the case has not what it needs.
    pub items: fn(&Case, &Words) -> Result<Vec<TestItem>>,
    /// Whether it is measured where nobody asks for it.
    pub by_default: bool,
}
