//! A = L Lᵀ of a symmetric positive definite matrix, in place, and L X = B, Lᵀ X = B.
//!
//! ```text
//! A (N, N)   the lower triangle, rows ld apart, becomes L; what is above stays, unread
//! X (N, n)   B before; unknown i of system j stands at x[i down + j across]
//! ```
//!
//! Cost: N³/3 FLOP for the factor, N² for a solve with one triangle and system. Source: Higham
//! 2002, Accuracy and Stability of Numerical Algorithms, chapter 10.

use super::cpu;
use crate::base::Float;

/// How a lower triangle lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triangle {
    /// N.
    pub n: usize,
    /// Elements from a row to the next.
    pub ld: usize,
}

impl Triangle {
    /// Elements up to the last of its own.
    pub fn len(self) -> usize {
        self.n.saturating_sub(1) * self.ld + self.n
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.n == 0
    }
}

/// How the unknowns of some systems lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Systems {
    /// How many systems.
    pub count: usize,
    /// Elements from an unknown to the next.
    pub down: usize,
    /// Elements from a system to the next.
    pub across: usize,
}

/// Which triangle a solve is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// L.
    Lower,
    /// Lᵀ.
    Upper,
}

/// Turns A into L. Where a pivot is not a positive number, its index, and A is of no more use.
pub fn factor<T: Float>(a: &mut [T], of: Triangle) -> Option<usize> {
    assert!(of.ld >= of.n && a.len() >= of.len(), "cholesky: A is smaller than its triangle");
    cpu::cholesky::factor(a, of)
}

/// Turns B into X.
pub fn solve<T: Float>(l: &[T], of: Triangle, side: Side, x: &mut [T], systems: Systems) {
    assert!(of.ld >= of.n && l.len() >= of.len(), "cholesky: L is smaller than its triangle");
    let last = |n: usize, step: usize| n.saturating_sub(1) * step;
    let end = last(of.n, systems.down) + last(systems.count, systems.across);
    assert!(of.n * systems.count == 0 || end < x.len(), "cholesky: X is smaller than its systems");
    cpu::cholesky::solve(l, of, side, x, systems);
}
