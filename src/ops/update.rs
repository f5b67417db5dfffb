//! Adding a change to stored weights: the original plus everything added since, rounded once.
//!
//! ```text
//! maths    new = round(W + Σ_p Δ_p),   Δ_p = left_p · right_pᵀ  or dense
//!          every product is exact in f64 (24 + 24 bits ≤ 53); the sum over (p, r) is one f64
//!          accumulator an element, in that order, then + W, then one rounding to nearest even;
//!          a W that is NaN stays as it is
//! shapes   W (out, in), stored (out, in) or (in, out)
//!          left (out, r)   right (in, r)   dense (out, in)
//! types    W F32 F16 BF16; changes f32
//! cost     2·out·in·Σr FLOP in f64; moves W twice
//! ```
//!
//! The order is part of the definition: the bytes depend on no instruction set, thread count or
//! device, so a fingerprint made on one machine holds on another.

use std::ops::Range;

use super::{cpu, cuda};
use crate::base::DType;
use crate::store::Delta;
use crate::tensor::{Compute, Layout};

/// A matrix W (out, in) as a checkpoint stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Of its elements.
    pub dtype: DType,
    /// Which side comes first.
    pub layout: Layout,
    /// Rows of W.
    pub out: usize,
    /// Columns of W.
    pub inner: usize,
}

impl Stored {
    /// Rows and columns as they lie in the file.
    pub fn sides(&self) -> [usize; 2] {
        match self.layout {
            Layout::OutIn => [self.out, self.inner],
            Layout::InOut => [self.inner, self.out],
        }
    }

    /// Bytes of a stored row.
    pub fn row_bytes(&self) -> usize {
        self.sides()[1] * self.dtype.size()
    }
}

/// Sums of squares over the elements that were changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ W².
    pub weight: f64,
    /// Σ Δ², what was wanted.
    pub wanted: f64,
    /// Σ (W + Δ − new)², what rounding lost.
    pub lost: f64,
    /// Elements that were finite and are not any more: the type is too narrow for the change.
    pub overflowed: usize,
}

impl Sums {
    /// The sums over both parts.
    pub fn and(self, other: Sums) -> Sums {
        Sums {
            weight: self.weight + other.weight,
            wanted: self.wanted + other.wanted,
            lost: self.lost + other.lost,
            overflowed: self.overflowed + other.overflowed,
        }
    }
}

/// Changes on their way into a matrix, checked against it. On a device their factors are there
/// from now on, side by side; dense changes are added on the host.
pub struct Terms<'a> {
    w: Stored,
    kinds: Vec<&'a Delta>,
    on: Option<cuda::update::Factors>,
}

impl<'a> Terms<'a> {
    /// Those of W, in the order in which they are added. A device without room unwinds.
    pub fn new(by: &Compute, w: Stored, kinds: Vec<&'a Delta>) -> Terms<'a> {
        let mut low_rank = Vec::new();
        for kind in &kinds {
            match kind {
                Delta::LowRank { left, right, r } => {
                    assert_eq!(left.len(), w.out * r, "update: left does not fit W");
                    assert_eq!(right.len(), w.inner * r, "update: right does not fit W");
                    low_rank.push((&left[..], &right[..], *r));
                }
                Delta::Dense(delta) => {
                    assert_eq!(delta.len(), w.out * w.inner, "update: delta does not fit W");
                }
            }
        }
        let engine = by.engine().filter(|_| low_rank.len() == kinds.len() && !kinds.is_empty());
        let on = engine.map(|engine| {
            let left = side_by_side(w.out, low_rank.iter().map(|&(left, _, r)| (left, r)));
            let right = side_by_side(w.inner, low_rank.iter().map(|&(_, right, r)| (right, r)));
            let [first, second] = match w.layout {
                Layout::OutIn => [left, right],
                Layout::InOut => [right, left],
            };
            cuda::update::Factors::new(engine, w.sides(), [&first, &second])
        });
        Terms { w, kinds, on }
    }

    /// `new` = the stored rows `rows`, whose bytes are `original`, plus all changes.
    pub fn add(&self, original: &[u8], rows: Range<usize>, new: &mut [u8]) -> Sums {
        let w = self.w;
        assert!(rows.end <= w.sides()[0], "update: rows outside the matrix");
        assert_eq!(original.len(), rows.len() * w.row_bytes(), "update: bytes do not fit the rows");
        assert_eq!(new.len(), original.len(), "update: room for another number of bytes");
        match &self.on {
            Some(factors) => factors.add(original, (&w.dtype).into(), rows, new),
            None => cpu::update::update(original, w, rows, &self.kinds, new),
        }
    }
}

/// Factors (n, r) of several changes as one: their products with another such one add up the
/// changes in their order.
pub fn side_by_side<'a>(
    n: usize,
    factors: impl Iterator<Item = (&'a [f32], usize)> + Clone,
) -> Vec<f32> {
    let row = |i: usize| factors.clone().flat_map(move |(m, r)| &m[i * r..][..r]);
    (0..n).flat_map(row).copied().collect()
}
