//! Equality-constrained mass editing.
//!
//! ```text
//! minimise tr Δ M Δᵀ with ΔK = R:      Δ = R (KᵀM⁻¹K + εI)⁻¹KᵀM⁻¹      ε = 0 meets it exactly
//!
//! M = λC + νI        λ mom2_update_weight, ν update_norm_lambda, ε emmet_lambda
//! ```
//!
//! With ε > 0 that is MEMIT's closed form with εM in the place of λC. As a rule one layer is
//! edited. Source: Gupta, Sajnani, Anumanchipalli 2024, arXiv:2403.14236.

use faer::Mat;

use super::memit::{Grams, Moments, solve};
use super::spread::ClosedForm;
use crate::base::Result;
use crate::linalg::keyspace::{Change, add_gram};
use crate::stats::covariance::matrix;

/// EMMET.
pub struct Emmet<'a> {
    /// C of each layer.
    pub moments: &'a Moments<'a>,
    /// λ.
    pub mom2_update_weight: f64,
    /// ν.
    pub update_norm_lambda: f64,
    /// ε.
    pub emmet_lambda: f64,
    /// Σ KKᵀ of earlier batches.
    pub past: Grams,
}

impl ClosedForm for Emmet<'_> {
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>) -> Result<(Change, Option<f64>)> {
        let (f, moment) = (k.nrows(), (self.moments)(layer)?);
        solve(&moment, self.emmet_lambda, k, r, &|ridge| {
            let mut m = matrix(&moment, ridge);
            m *= faer::Scale(self.mom2_update_weight);
            (0..f).for_each(|i| m[(i, i)] += self.update_norm_lambda);
            if let Some(q) = self.past.get(&layer) {
                m += q;
            }
            m
        })
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) {
        let f = k.nrows();
        add_gram(self.past.entry(layer).or_insert_with(|| Mat::zeros(f, f)), k);
    }

    fn past(&mut self) -> Grams {
        std::mem::take(&mut self.past)
    }
}
