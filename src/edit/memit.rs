//! Mass-editing memory in a transformer.
//!
//! ```text
//! Z    values of all facts at the stream after the last layer of a window        edit/search
//! R    what is missing of them, spread evenly over the layers                   edit/spread.rs
//! C    E[k kᵀ] over running text; λ says how many such keys count as one      mom2_update_weight
//! Q    Σ KKᵀ of the batches before this one, read with their finished weights
//!
//! Δ = R Xᵀ,   X = (λC + Q + KKᵀ)⁻¹K                                     linalg/least_squares.rs
//! ```
//!
//! A C that is singular gets a ridge, which is said. Source: Meng, Sharma, Andonian, Belinkov, Bau
//! 2023, arXiv:2210.07229, eq. 14; Q, for edits in sequential batches, as in MEMIT_seq of
//! jianghoucheng/AlphaEdit.

use std::collections::BTreeMap;
use std::sync::Arc;

use faer::Mat;

use super::spread::{ClosedForm, Solved};
use crate::base::{Error, Result};
use crate::linalg::least_squares::{self, Prior, Route, Solution, Solver, add_gram};
use crate::stats::Moment;
use crate::stats::covariance::{indefinite, matrix, with_ridge};

/// C of a layer, read when it is needed: at F = 16,384 one is 1 GB.
pub type Moments<'a> = dyn Fn(usize) -> Result<Arc<Moment>> + 'a;
/// Σ KKᵀ (F, F) by layer; the lower triangle counts.
pub type Grams = BTreeMap<usize, Mat<f64>>;

/// MEMIT.
pub struct Memit<'a> {
    /// C of each layer.
    pub moments: &'a Moments<'a>,
    /// λ.
    pub mom2_update_weight: f64,
    /// Q of each layer.
    pub past: Grams,
}

impl Memit<'_> {
    /// M = λ(C + ridge·I) + Q.
    pub fn prior(&self, moment: &Moment, ridge: f64) -> Mat<f64> {
        let mut m = matrix(moment, ridge);
        m *= faer::Scale(self.mom2_update_weight);
        if let Some(q) = self.past.get(&moment.layer) {
            m += q;
        }
        m
    }
}

impl ClosedForm for Memit<'_> {
    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        let moment = (self.moments)(layer)?;
        solve(&moment, 1.0, [k, r], &|ridge| self.prior(&moment, ridge), solver)
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) {
        let f = k.nrows();
        add_gram(self.past.entry(layer).or_insert_with(|| Mat::zeros(f, f)), k);
    }

    fn past(&mut self) -> Grams {
        std::mem::take(&mut self.past)
    }
}

/// Δ with the prior M that `prior` makes of C and a ridge, which grows until M can be solved with.
///
/// # Errors
///
/// No ridge will do, or, with ε = 0, keys that depend on each other.
pub fn solve(
    moment: &Moment,
    epsilon: f64,
    [k, r]: [&Mat<f64>; 2],
    prior: &dyn Fn(f64) -> Mat<f64>,
    solver: Solver,
) -> Result<(Solution, Option<f64>)> {
    let made = with_ridge(moment, |ridge| {
        let prior = || prior(ridge);
        let prior = Prior::Matrix(&prior);
        let route = Route::choose(&prior, epsilon, [k.nrows(), k.ncols(), r.nrows()]);
        least_squares::solve(&prior, epsilon, k, r, route, solver)
    })?;
    made.ok_or_else(|| match epsilon == 0.0 {
        true => Error::numeric(
            format!("layer {}: the facts' keys depend on each other", moment.layer),
            "say --set emmet_lambda=0.1: prompts in which the same text precedes a subject share a \
             key, whatever follows it",
        ),
        false => indefinite(moment.layer),
    })
}
