//! A = L Lᵀ of a symmetric positive definite matrix in f64, and A⁻¹B by two triangular solves.
//!
//! A (F, F), B (F, n). Cost: F³/3 FLOP for the factor, 2·F²·n for a solve.

use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, Side};

/// The factor of a symmetric positive definite matrix.
pub struct Cholesky {
    llt: Llt<f64>,
}

impl Cholesky {
    /// Factors A, whose lower triangle is read; `None` where A is not positive definite.
    pub fn of(a: &Mat<f64>) -> Option<Cholesky> {
        let llt = a.llt(Side::Lower).ok()?;
        // A NaN passes comparisons: look at what came out.
        let diagonal = (0..a.nrows()).map(|i| llt.L()[(i, i)]);
        diagonal.into_iter().all(f64::is_finite).then_some(Cholesky { llt })
    }

    /// A⁻¹ B.
    pub fn solve(&self, b: &Mat<f64>) -> Mat<f64> {
        self.llt.solve(b)
    }
}
