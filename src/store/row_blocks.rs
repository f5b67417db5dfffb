//! The rows of a tensor that hold one matrix, where it holds several.
//!
//! ```text
//! tensor   count blocks of period rows each, in (out, in) orientation
//! matrix   the rows start .. start + len of every block
//!
//! q, k, v one after the other      k   start H·E   len G·E   period (H + 2G)·E   count 1
//! q, k, v of one head after those
//!   of another                     k   start E     len E     period 3E           count H
//! ```

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Rows a tensor has at most: a hundred times those of the largest, so that a file which claims
/// more costs nothing.
const MOST: usize = 1 << 28;

/// Some rows of a tensor: the same part of each of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowBlocks {
    /// The first row, in a block.
    pub start: usize,
    /// How many rows follow it there.
    pub len: usize,
    /// Rows of a block.
    pub period: usize,
    /// How many blocks there are.
    pub count: usize,
}

impl RowBlocks {
    /// How many rows they are.
    pub fn rows(&self) -> usize {
        self.len * self.count
    }

    /// Rows of the tensor.
    pub fn tensor_rows(&self) -> usize {
        self.period * self.count
    }

    /// The rows of each block, as the tensor counts them.
    pub fn ranges(self) -> impl Iterator<Item = Range<usize>> {
        let first = move |block| block * self.period + self.start;
        (0..self.count).map(move |block| first(block)..first(block) + self.len)
    }

    /// Whether some row is in both.
    pub fn overlap(self, other: RowBlocks) -> bool {
        let (mut mine, mut theirs) = (self.ranges().peekable(), other.ranges().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            if a.start.max(b.start) < a.end.min(b.end) {
                return true;
            }
            if a.end <= b.end {
                mine.next()
            } else {
                theirs.next()
            };
        }
        false
    }

    /// Rows of `width` values at their places in the tensor, with zeros between them.
    pub fn spread(self, rows: &[f32], width: usize) -> Vec<f32> {
        let mut all = vec![0.0; self.tensor_rows() * width];
        for (range, block) in self.ranges().zip(rows.chunks_exact((self.len * width).max(1))) {
            all[range.start * width..range.end * width].copy_from_slice(block);
        }
        all
    }

    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let RowBlocks { start, len, period, count } = *self;
        let fits = start.checked_add(len).is_some_and(|end| end <= period);
        let all = period.checked_mul(count).filter(|rows| *rows <= MOST);
        match len > 0 && count > 0 && fits && all.is_some() {
            true => Ok(()),
            false => Err(format!("{len} rows from row {start} on are not in {count} × {period}")),
        }
    }
}
