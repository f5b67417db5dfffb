//! What settings are looked for.

use std::path::PathBuf;

use crate::data::Corpus;

/// What is tuned for, and from what.
pub struct Tuning {
    /// The method's name.
    pub method: String,
    /// N: facts that are edited at once.
    pub facts: usize,
    /// Text for statistics, where the editor names none and the method needs them.
    pub corpus: Option<Corpus>,
    /// Folder of what is found: trials, values, statistics, the table, the curve, the report.
    pub dir: PathBuf,
}
