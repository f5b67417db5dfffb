//! Precise model editing: MEMIT, but the search may lay what is not the fact into the attention.
//!
//! ```text
//! δ_m, δ_a    pushed into the outputs of the MLP and of the attention of the last layer; the loss
//!             is nll_f·NLL + κ KL + decay (‖δ_m‖/‖m₀‖² + ‖δ_a‖/‖a₀‖²)           edit/search
//! Z = m₀ + δ_m                         δ_a is forgotten
//! R = (Z − M)/√(n − i)                 M the MLP's output now; the root, where MEMIT has n − i
//! Δ = R Xᵀ                             as MEMIT
//! ```
//!
//! Source: Li, Li, Song, Yang, Ma, Yu 2024, arXiv:2308.08742, and the public code.

use faer::Mat;

use super::memit::{Grams, Memit};
use super::spread::{ClosedForm, Solved};
use crate::linalg::least_squares::Solver;

/// PMET.
pub struct Pmet<'a>(pub Memit<'a>);

impl ClosedForm for Pmet<'_> {
    fn share(&self, left: usize) -> f64 {
        1.0 / (left as f64).sqrt()
    }

    fn change(&self, layer: usize, k: &Mat<f64>, r: &Mat<f64>, solver: Solver) -> Solved {
        self.0.change(layer, k, r, solver)
    }

    fn learn(&mut self, layer: usize, k: &Mat<f64>) {
        self.0.learn(layer, k);
    }

    fn past(&mut self) -> Grams {
        self.0.past()
    }
}
