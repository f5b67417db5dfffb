//! What a search finds.

use super::settings::Push;
use crate::linalg::vector::norm;
use crate::model::Model;

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetValue {
    /// t₀ (D); where values of several layers are searched, of each (P·D), lowest first.
    pub t0: Vec<f64>,
    /// δ, likewise.
    pub delta: Vec<f64>,
    /// PMET's offset of the attention's output, which is discarded (D); else nothing.
    pub attention_delta: Vec<f64>,
    /// The losses of each step; its length is the number of steps taken.
    pub trace: Vec<LossStep>,
}

/// The loss in one step, by its terms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossStep {
    /// f times the mean over rows of the mean over target tokens of −ln P.
    pub nll: f64,
    /// κ KL(now ‖ at δ = 0).
    pub kl: f64,
    /// decay ‖δ‖/‖t₀‖².
    pub weight_decay: f64,
    /// Target tokens, over all rows, that something else is likelier than.
    pub missed: usize,
}

impl LossStep {
    /// The whole loss.
    pub fn total(&self) -> f64 {
        self.nll + self.kl + self.weight_decay
    }
}

impl TargetValue {
    /// Of t₀ and δ (P·D) as a search holds them.
    pub(super) fn new(
        model: &Model,
        push: &Push,
        mut t0: Vec<f64>,
        mut delta: Vec<f64>,
        trace: Vec<LossStep>,
    ) -> TargetValue {
        let mut attention_delta = Vec::new();
        if push.attention {
            t0.truncate(model.arch.width);
            attention_delta = delta.split_off(model.arch.width);
        }
        let mut value = TargetValue { t0, delta, attention_delta, trace };
        // Several keep it one after the other, as each moves the next (edit/solve/window.rs).
        if push.above == 0 && push.norm(model).is_some() {
            value.keep_length();
        }
        value
    }

    /// v* ← v*·‖t₀‖/‖v*‖: where a norm reads the value, it reads the direction alone, and a value
    /// as long as before leaves the scale of the row as it was.
    pub fn keep_length(&mut self) {
        let v = self.v_star();
        let scale = keeping_length(&v, &self.t0);
        self.delta = v.iter().zip(&self.t0).map(|(v, t)| v * scale - t).collect();
    }

    /// v* = t₀ + δ.
    pub fn v_star(&self) -> Vec<f64> {
        self.t0.iter().zip(&self.delta).map(|(t, d)| t + d).collect()
    }
}

/// The factor that makes a value v as long as y; 1 where v has no direction.
pub fn keeping_length(v: &[f64], y: &[f64]) -> f64 {
    let length = norm(v);
    if length > 0.0 { norm(y) / length } else { 1.0 }
}
