//! Adding a change to stored weights: the original plus everything added since, rounded once.
//!
//! ```text
//! maths    new = round(W + Σ_p Δ_p),   Δ_p = left_p · right_pᵀ  or dense
//!          every product is exact in f64 (24 + 24 bits ≤ 53); the sum over (p, r) is one f64
//!          accumulator an element, in that order, then + W, then one rounding to nearest even
//! shapes   W (out, in), stored (out, in) or (in, out)
//!          left (out, r)   right (in, r)   dense (out, in)
//! types    W F32 F16 BF16; changes f32
//! cost     2·out·in·Σr FLOP in f64; moves W twice
//! ```
//!
//! The order is part of the definition: the bytes depend on no instruction set and no thread count,
//! so a fingerprint made on one machine holds on another.

use std::ops::Range;

use super::cpu;
use crate::base::DType;
use crate::store::Kind;
use crate::tensor::Layout;

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

/// `new` = the stored rows `rows`, whose bytes are `original`, plus all of `terms`.
pub fn update(
    original: &[u8],
    w: Stored,
    rows: Range<usize>,
    terms: &[&Kind],
    new: &mut [u8],
) -> Sums {
    assert!(rows.end <= w.sides()[0], "update: rows outside the matrix");
    assert_eq!(original.len(), rows.len() * w.row_bytes(), "update: bytes do not fit the rows");
    assert_eq!(new.len(), original.len(), "update: room for another number of bytes");
    for term in terms {
        match term {
            Kind::LowRank { left, right, r } => {
                assert_eq!(left.len(), w.out * r, "update: left does not fit W");
                assert_eq!(right.len(), w.inner * r, "update: right does not fit W");
            }
            Kind::Dense(delta) => {
                assert_eq!(delta.len(), w.out * w.inner, "update: delta does not fit W");
            }
        }
    }
    cpu::update::update(original, w, rows, terms, new)
}
