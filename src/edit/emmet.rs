//! Equality-constrained mass editing.
//!
//! ```text
//! minimise tr Δ M Δᵀ with ΔK = R:      Δ = R (KᵀM⁻¹K + εI)⁻¹KᵀM⁻¹      ε = 0 meets it exactly
//!
//! M = λC + Q + νI    Q Σ KKᵀ of the batches before, as in MEMIT
//! λ mom2_update_weight, ν update_norm_lambda, ε emmet_lambda
//! ```
//!
//! With ε > 0 that is MEMIT's closed form with εM in the place of λC + Q, so keys of earlier
//! batches weigh ε of what they weigh there. As a rule one layer is edited. Source: Gupta,
//! Sajnani, Anumanchipalli 2024, arXiv:2403.14236.

use faer::Mat;

use super::memit::{Grams, Memit, solve};
use super::spread::{ClosedForm, Solved};
use crate::linalg::least_squares::Solver;

/// EMMET.
pub struct Emmet<'a> {
    /// C, λ and the keys of earlier batches, as MEMIT has them.
    pub memit: Memit<'a>,
    /// ν.
    pub update_norm_lambda: f64,
    /// ε.
    pub emmet_lambda: f64,
}

impl ClosedForm for Emmet<'_> {
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        let moment = (self.memit.moments)(layer)?;
        let prior = |ridge| {
            let mut m = self.memit.prior(&moment, ridge);
            (0..k.nrows()).for_each(|i| m[(i, i)] += self.update_norm_lambda);
            m
        };
        solve(&moment, self.emmet_lambda, [k, r], &prior, solver)
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) {
        self.memit.learn(layer, k);
    }

    fn past(&mut self) -> Grams {
        self.memit.past()
    }
}
