//! The norm anchor: values of every batch as long as those of the first model.
//!
//! ```text
//! v₀ (D)   the MLP's output at the bare prompt's subject         v* = v₀ + δ
//! c        mean ‖v*‖ over a sample of requests on the model as it was, without the top 5 %
//!
//! v* ← v₀            where ‖v*‖ > 2c: the search ran away, and the fact is left out
//! v* ← c·v*/‖v*‖     otherwise
//! z  = (t₀ − v₀) + v*
//! ```
//!
//! In sequential editing ‖v*‖ grows from batch to batch, and with it every change. Source:
//! arXiv:2602.02543.

use crate::linalg::vector::norm;

/// c, from ‖v*‖ of a sample; 0 for an empty one.
pub fn reference(mut norms: Vec<f64>) -> f64 {
    norms.sort_by(f64::total_cmp);
    norms.truncate(norms.len() - norms.len().div_ceil(20).min(norms.len().saturating_sub(1)));
    norms.iter().sum::<f64>() / norms.len().max(1) as f64
}

/// What z − t₀ is, in the place of δ.
pub fn anchored(v0: &[f64], delta: &[f64], c: f64) -> Vec<f64> {
    let v: Vec<f64> = v0.iter().zip(delta).map(|(v, d)| v + d).collect();
    let length = norm(&v);
    match length > 2.0 * c {
        true => vec![0.0; v.len()],
        false => v.iter().zip(v0).map(|(v, v0)| v * c / length - v0).collect(),
    }
}
