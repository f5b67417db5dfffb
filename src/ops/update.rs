//! Adding changes to stored weights: the original plus everything added since, rounded once.
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

pub use super::cpu::update::{Stored, Sums, Term};
use super::{cpu, cuda};
use crate::tensor::{Compute, Layout};

/// Terms to add to a matrix, checked against it. On a device their factors are there from now on,
/// side by side; dense terms are added on the host.
pub struct Terms<'a> {
    w: Stored,
    terms: Vec<Term<'a>>,
    on_device: Option<cuda::update::DeviceFactors>,
}

impl<'a> Terms<'a> {
    /// Those of W, in the order in which they are added. A device without room unwinds.
    pub fn new(compute: &Compute, w: Stored, terms: Vec<Term<'a>>) -> Terms<'a> {
        let mut low_rank = Vec::new();
        for &term in &terms {
            match term {
                Term::LowRank { left, right, r } => {
                    assert_eq!(left.len(), w.out * r, "update: left does not fit W");
                    assert_eq!(right.len(), w.inner * r, "update: right does not fit W");
                    low_rank.push((left, right, r));
                }
                Term::Dense(delta) => {
                    assert_eq!(delta.len(), w.out * w.inner, "update: delta does not fit W");
                }
            }
        }
        let all_low_rank = low_rank.len() == terms.len() && !terms.is_empty();
        let on_device = compute.engine().filter(|_| all_low_rank).map(|engine| {
            let left = side_by_side(w.out, low_rank.iter().map(|&(left, _, r)| (left, r)));
            let right = side_by_side(w.inner, low_rank.iter().map(|&(_, right, r)| (right, r)));
            let [first, second] = match w.layout {
                Layout::OutIn => [left, right],
                Layout::InOut => [right, left],
            };
            cuda::update::DeviceFactors::new(engine, w.sides(), [&first, &second])
        });
        Terms { w, terms, on_device }
    }

    /// `new` = the stored rows `rows`, whose bytes are `original`, plus all changes.
    pub fn add(&self, original: &[u8], rows: Range<usize>, new: &mut [u8]) -> Sums {
        let w = self.w;
        assert!(rows.end <= w.sides()[0], "update: rows outside the matrix");
        assert_eq!(original.len(), rows.len() * w.row_bytes(), "update: bytes do not fit the rows");
        assert_eq!(new.len(), original.len(), "update: room for another number of bytes");
        match &self.on_device {
            Some(factors) => factors.add(original, (&w.dtype).into(), rows, new),
            None => cpu::update::update(original, w, rows, &self.terms, new),
        }
    }
}

/// Factors (n, r) of several terms as one: its product with the other such one adds up the terms
/// in their order.
pub fn side_by_side<'a>(
    n: usize,
    factors: impl Iterator<Item = (&'a [f32], usize)> + Clone,
) -> Vec<f32> {
    let row = |i: usize| factors.clone().flat_map(move |(m, r)| &m[i * r..][..r]);
    (0..n).flat_map(row).copied().collect()
}
