//! A text and what is asked to come after it, as tokens.

use std::ops::Range;

/// What a model reads, and the tokens it is scored for: the last rows read predict the labels, each
/// the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Completion {
    /// The tokens read: at least as many as labels.
    pub read: Vec<u32>,
    /// At least one.
    pub labels: Vec<u32>,
}

impl Completion {
    /// A prompt, of at least one token, and a target after it.
    pub fn new(prompt: &[u32], target: &[u32]) -> Completion {
        let (labels, before) = (target.to_vec(), target.len().saturating_sub(1));
        Completion { read: [prompt, &target[..before]].concat(), labels }
    }

    /// The tokens of its prompt, which the first label follows.
    pub fn prompt(&self) -> usize {
        self.read.len() + 1 - self.labels.len()
    }

    /// The rows that predict its labels.
    pub(super) fn predicting(&self) -> Range<usize> {
        self.read.len() - self.labels.len()..self.read.len()
    }
}
