//! Null-space constrained editing: a change that keys of running text do not see.
//!
//! ```text
//! C = U diag(σ) Uᵀ,   U₀ (F, q) the columns with σ < nullspace_threshold,   P = U₀U₀ᵀ
//! K̃ = U₀ᵀK (q, N)     Q̃ = Σ K̃K̃ᵀ of the batches before
//!
//! Δᵀ = U₀ (K̃K̃ᵀ + Q̃ + L2·I)⁻¹ K̃ Rᵀ
//! ```
//!
//! which is the published (P(KKᵀ + Q) + L2·I)⁻¹PKRᵀ in the coordinates where it is symmetric and
//! q wide. ΔU₁ = 0 for the directions U₁ that text uses. Source: Fang et al. 2025,
//! arXiv:2410.02355, eq. 14.

use std::collections::BTreeMap;
use std::sync::Arc;

use faer::Mat;

use super::memit::Grams;
use super::spread::{ClosedForm, Solved};
use crate::base::{Error, Result};
use crate::linalg::eigen::symmetric;
use crate::linalg::least_squares::{self, Prior, Route, Solution, Solver, add_gram, times};
use crate::stats::Moment;
use crate::stats::covariance::matrix;

/// U₀ (F, q) by layer.
pub type Bases = BTreeMap<usize, Arc<Mat<f64>>>;

/// AlphaEdit.
pub struct AlphaEdit {
    /// U₀ of each layer.
    pub bases: Bases,
    /// L2.
    pub l2: f64,
    /// Q̃ of each layer (q, q).
    pub past: Grams,
}

/// The directions in which C is below the threshold.
///
/// # Errors
///
/// None or all of them; a C that has no eigenvalues.
pub fn null_space(moment: &Moment, threshold: f64) -> Result<Mat<f64>> {
    let (layer, f) = (moment.layer, moment.f);
    let Some((sigma, u)) = symmetric(&matrix(moment, 0.0)) else {
        let what = format!("layer {layer}: the eigenvalues of C do not converge");
        return Err(Error::numeric(what, "collect C again"));
    };
    let q = sigma.iter().take_while(|&&s| s < threshold).count(); // ascending
    let (least, most) = (sigma[0], sigma[f - 1]);
    if q == 0 || q == f {
        let which = if q == 0 { "no eigenvalue" } else { "every eigenvalue" };
        return Err(Error::numeric(
            format!("layer {layer}: {which} of C is below nullspace_threshold {threshold:e}"),
            format!("say --set nullspace_threshold=… between {least:.2e} and {most:.2e}"),
        ));
    }
    Ok(u.subcols(0, q).to_owned())
}

impl ClosedForm for AlphaEdit {
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        let u = &self.bases[&layer];
        let k = times(u.transpose(), k.as_ref());
        let q = k.nrows();
        let with_past = |past: &Mat<f64>| {
            let mut m = past.clone();
            (0..q).for_each(|i| m[(i, i)] += self.l2);
            m
        };
        let made = self.past.get(&layer).map(|past| move || with_past(past));
        let prior = match &made {
            Some(made) => Prior::Matrix(made),
            None => Prior::Scaled(self.l2),
        };
        let route = Route::choose(&prior, 1.0, [q, k.ncols(), r.nrows()]);
        let change = least_squares::solve(&prior, 1.0, &k, r, route, solver).ok_or_else(|| {
            let what = format!("layer {layer}: the system of {q} directions cannot be solved");
            Error::numeric(what, "say --set L2=… with a larger number")
        })?;
        let whole = |m: &Mat<f64>| times(u.as_ref().as_ref(), m.as_ref());
        Ok(match change {
            Solution::Right(x) => (Solution::Right(whole(&x)), None),
            Solution::Whole(x) => (Solution::Whole(whole(&x)), None),
        })
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) {
        let u = &self.bases[&layer];
        let k = times(u.transpose(), k.as_ref());
        let q = k.nrows();
        add_gram(self.past.entry(layer).or_insert_with(|| Mat::zeros(q, q)), &k);
    }

    fn past(&mut self) -> Grams {
        std::mem::take(&mut self.past)
    }
}
