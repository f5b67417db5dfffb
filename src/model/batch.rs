//! Token sequences packed end to end, without padding.

use std::ops::Range;
use std::sync::Arc;

use crate::ops::attention::Seq;

/// N tokens of S sequences, each of which may continue rows of a cache.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// (N).
    pub ids: Vec<u32>,
    /// (N), position of each token in its sequence, from 0.
    pub positions: Vec<usize>,
    /// (S).
    pub seqs: Vec<Seq>,
    prompt_ends: Vec<Option<usize>>, // (S)
    version: Arc<()>,                // replaced by every change
}

impl Batch {
    /// Whole sequences, from their first token.
    pub fn whole<I: AsRef<[u32]>>(sequences: impl IntoIterator<Item = I>) -> Batch {
        let mut batch = Batch::default();
        for ids in sequences {
            batch.push(ids.as_ref(), 0..0);
        }
        batch
    }

    /// Adds a sequence that continues the cached rows `past`; returns its rows.
    pub fn push(&mut self, ids: &[u32], past: Range<usize>) -> Range<usize> {
        self.push_after(ids, [0..0, past])
    }

    /// Adds a sequence that continues cached rows, first shared ones and then its own; returns its
    /// rows.
    pub fn push_after(&mut self, ids: &[u32], past: [Range<usize>; 2]) -> Range<usize> {
        let rows = self.ids.len()..self.ids.len() + ids.len();
        let before = past[0].len() + past[1].len();
        self.ids.extend_from_slice(ids);
        self.positions.extend((0..ids.len()).map(|i| before + i));
        let begins_here = before == 0 && !ids.is_empty();
        self.prompt_ends.push(begins_here.then(|| rows.end - 1));
        self.seqs.push(Seq { rows: rows.clone(), past });
        self.version = Arc::default();
        rows
    }

    /// Pads the batch with sequences of one token, which nobody reads, to at least `least` tokens.
    /// From [`BATCH_INVARIANT_ROWS`](crate::ops::linear::BATCH_INVARIANT_ROWS) rows on, a row's
    /// numbers do not depend on the other rows of the batch.
    pub fn fill(&mut self, least: usize) {
        while self.len() < least {
            self.push(&[0], 0..0);
        }
        // A sequence without a token attends to nothing.
        let empty = |s: &Seq| s.rows.is_empty();
        let mut all = self.seqs.iter();
        self.prompt_ends.retain(|_| all.next().is_some_and(|s| !empty(s)));
        self.seqs.retain(|s| !empty(s));
    }

    /// The row of the last token of sequence s's prompt: its last, unless something else was said.
    /// `None` where the prompt ended among the cached rows.
    pub fn prompt_end(&self, s: usize) -> Option<usize> {
        self.prompt_ends[s]
    }

    /// Says where the prompt of sequence s ends, and its continuation begins.
    ///
    /// # Panics
    ///
    /// Where the row is not one of the sequence.
    pub fn set_prompt_end(&mut self, s: usize, row: usize) {
        assert!(self.seqs[s].rows.contains(&row), "a prompt ends in a sequence of its own");
        self.prompt_ends[s] = Some(row);
    }

    /// Batches of one version, compared by address, hold the same tokens.
    pub(super) fn version(&self) -> &Arc<()> {
        &self.version
    }

    /// N.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
