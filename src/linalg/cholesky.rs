//! A = L Lᵀ of a symmetric positive definite matrix in f64, and A⁻¹B by two triangular solves.
//!
//! A (F, F), B (F, n). Cost: F³/3 FLOP for the factor, 2·F²·n for a solve; no memory beyond A's
//! and B's own.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::{Mat, MatRef, Spec};

use super::pieces;

/// The factor of a symmetric positive definite matrix.
pub struct Cholesky {
    l: Mat<f64>, // in the lower triangle
}

impl Cholesky {
    /// Factors A, whose lower triangle is read, in its place; `None` where A is not positive
    /// definite.
    pub fn of(mut a: Mat<f64>) -> Option<Cholesky> {
        let f = a.nrows();
        let par = pieces();
        let spec = Spec::default();
        let mut memory =
            MemBuffer::new(llt::factor::cholesky_in_place_scratch::<f64>(f, par, spec));
        let stack = MemStack::new(&mut memory);
        let no_regularization = Default::default();
        llt::factor::cholesky_in_place(a.as_mut(), no_regularization, par, stack, spec).ok()?;
        // A NaN passes comparisons: look at what came out.
        (0..f).all(|i| a[(i, i)].is_finite()).then_some(Cholesky { l: a })
    }

    /// L, in the lower triangle; above it is anything.
    pub fn lower(&self) -> MatRef<'_, f64> {
        self.l.as_ref()
    }

    /// The smallest pivot, as in A: L's squared.
    pub fn smallest(&self) -> f64 {
        let pivots = (0..self.l.nrows()).map(|i| self.l[(i, i)] * self.l[(i, i)]);
        pivots.fold(f64::INFINITY, f64::min)
    }

    /// A⁻¹ B, in the place of B.
    pub fn solve(&self, mut b: Mat<f64>) -> Mat<f64> {
        let par = pieces();
        let need = llt::solve::solve_in_place_scratch::<f64>(b.nrows(), b.ncols(), par);
        let mut memory = MemBuffer::new(need);
        let stack = MemStack::new(&mut memory);
        llt::solve::solve_in_place(self.l.as_ref(), b.as_mut(), par, stack);
        b
    }
}
