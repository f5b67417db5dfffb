//! v*, the vector that, held by one site, makes the model say the new object.
//!
//! ```text
//! v* = t₀ + δ,   ‖δ‖ ≤ clamp·‖t₀‖
//! δ  = argmin  mean_j −(1/T) Σ_t ln P[y_t | row j, push δ]      say the new object
//!            + κ KL(P[· | row′, push δ] ‖ P[· | row′])          stay what it is
//!            + decay ‖δ‖/‖t₀‖²                                  stay small
//! ```
//!
//! t₀ (D) is what the site holds at the bare prompt's subject. Adam from δ = 0; the search ends
//! when the loss is below 0.05 or the steps are used up (the last one does not move δ). Model,
//! loss and gradient run in the model's precision, δ and Adam in f64. Source: Meng et al. 2022,
//! arXiv:2202.05262, eq. 4, and the public code's stopping rule.

use super::adam::Adam;
use crate::base::{Error, Progress, Result};
use crate::linalg::vector::norm;
use crate::model::pushed::{Parts, Problem, Pushed};
use crate::model::{Model, Site};
use crate::tensor::Tensor;
use crate::text::Rows;

/// The loss below which a search ends.
pub const ENOUGH: f64 = 0.05;

/// The settings of a search; the field's names in brackets.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// At most this many looks at the loss (`v_num_grad_steps`).
    pub steps: usize,
    /// Adam's rate (`v_lr`).
    pub lr: f64,
    /// Weight of ‖δ‖/‖t₀‖² (`v_weight_decay`).
    pub decay: f64,
    /// ‖δ‖ ≤ clamp·‖t₀‖ (`clamp_norm_factor`).
    pub clamp: f64,
    /// κ (`kl_factor`).
    pub kl_factor: f64,
    /// The layer after which the head reads the stream (`v_loss_layer`).
    pub loss_layer: usize,
    /// The loss that ends the search, 0.05 everywhere in the field.
    pub enough: f64,
}

/// One look at the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Say and stay.
    pub parts: Parts,
    /// decay ‖δ‖/‖t₀‖².
    pub decay: f64,
}

impl Step {
    /// The whole loss.
    pub fn total(&self) -> f64 {
        self.parts.nll + self.parts.kl + self.decay
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Value {
    /// t₀ (D).
    pub t0: Vec<f64>,
    /// δ (D).
    pub delta: Vec<f64>,
    /// The loss at each step; its length is the number of steps taken.
    pub trace: Vec<Step>,
}

impl Value {
    /// v* = t₀ + δ.
    pub fn v_star(&self) -> Vec<f64> {
        self.t0.iter().zip(&self.delta).map(|(t, d)| t + d).collect()
    }
}

/// Searches v* for one fact.
///
/// # Errors
///
/// Numbers that are not finite, and a wish to stop.
pub fn find(
    model: &Model,
    rows: &Rows,
    site: Site,
    by: &Search,
    progress: &dyn Progress,
) -> Result<Value> {
    let problem = Problem { rows, kl_factor: by.kl_factor };
    let mut pushed = Pushed::new(model, site, by.loss_layer, &[problem]);
    let t0 = pushed.unpushed.row_f64(0);
    let d = t0.len();
    let length = norm(&t0);
    let shrink = by.decay / (length * length);
    let (mut delta, mut adam) = (vec![0.0; d], Adam::new(d, by.lr));
    let mut trace = Vec::new();
    for step in 0..by.steps {
        if progress.stop() {
            let kept = "the change of the facts before this one was not written".to_owned();
            return Err(Error::Interrupted { kept });
        }
        let (parts, gradient) = pushed.step(&Tensor::of(model.precision, &[1, d], &delta));
        let mut g = gradient.row_f64(0);
        let far = norm(&delta);
        let at = Step { parts: parts[0], decay: shrink * far };
        if !at.total().is_finite() {
            return Err(Error::numeric(
                format!("layer {}: the loss is {} at step {step}", site.layer, at.total()),
                "check the checkpoint for NaN weights, or edit another layer",
            ));
        }
        trace.push(at);
        progress.at("step", step as u64 + 1, by.steps as u64);
        if at.total() < by.enough || step + 1 == by.steps {
            break;
        }
        if far > 0.0 {
            g.iter_mut().zip(&delta).for_each(|(g, d)| *g += shrink * d / far); // ∇‖δ‖ = δ/‖δ‖
        }
        adam.step(&mut delta, &g);
        clip(&mut delta, by.clamp * length);
    }
    Ok(Value { t0, delta, trace })
}

/// Shortens δ onto the ball of that radius.
fn clip(delta: &mut [f64], radius: f64) {
    let far = norm(delta);
    if far > radius {
        delta.iter_mut().for_each(|d| *d *= radius / far);
    }
}
