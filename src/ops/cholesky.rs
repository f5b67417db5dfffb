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
pub use super::cpu::cholesky::{Side, Systems, Triangle};
use crate::base::Float;

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
