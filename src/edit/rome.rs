//! Rank-one model editing, as published and with one consistent key.
//!
//! Meng, Bau, Andonian, Belinkov 2022, arXiv:2202.05262; Gupta, Baskaran, Anumanchipalli 2024,
//! arXiv:2403.07175 (R-ROME).
//!
//! ```text
//! W  (D, F)  the MLP's down projection in layer l, which takes a key (F) to a value (D)
//! C  (F, F)  E[k kᵀ] over running text
//! k* (F)     key at the subject's last token, mean over all contexts
//! k₀ (F)     the same of the bare prompt alone
//! v* (D)     value under which the model says the new object                     edit/search
//!
//! R-ROME  Δ = (v* − W k* − b) xᵀ,   x = C⁻¹k* / k*ᵀC⁻¹k*          afterwards  Ŵ k* + b = v*
//! ROME    Δ = (v* − m₀) xᵀ,         x = C⁻¹k* / k₀ᵀC⁻¹k*          afterwards  Ŵ k₀ + b = v*
//! ```
//!
//! with m₀ = W k₀ + b. Either way Ŵk = Wk for every k with kᵀC⁻¹k* = 0. ROME's two keys are the
//! public code's; they make the denominator small by accident, which is what R-ROME mends.

use super::prompts::{FactRows, PromptRow};
use super::search::{self, Search, TargetValue};
use crate::base::{Error, Progress, Result};
use crate::linalg::vector::dot;
use crate::model::{At, Model, Site};
use crate::stats::Covariance;
use crate::tensor::Tensor;

/// Which key divides and is taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// k* everywhere: R-ROME.
    Consistent,
    /// k* in the direction, k₀ elsewhere: ROME as published.
    Mixed,
}

/// A planned change of one fact: Δ = left·rightᵀ.
pub struct RankOne {
    /// (D).
    pub left: Vec<f64>,
    /// (F).
    pub right: Vec<f64>,
    /// k*.
    pub k_star: Vec<f64>,
    /// k₀.
    pub k0: Vec<f64>,
    /// The search behind v*.
    pub value: TargetValue,
}

/// Plans one fact at one layer. Without C the direction is k* itself, which is what the field
/// calls `mom2_adjustment: false`.
///
/// # Errors
///
/// A search that meets NaN, a denominator that is 0, a wish to stop, a device without room.
pub fn plan(
    model: &Model,
    c: Option<&Covariance>,
    rows: &FactRows,
    layer: usize,
    keys: Keys,
    by: &Search,
    progress: &dyn Progress,
) -> Result<RankOne> {
    let texts: Vec<&[u32]> = rows.keys.iter().map(PromptRow::up_to_lookup).collect();
    let all = model.read(&texts, Site { layer, at: At::Key })?;
    let k0 = all.row_f64(0); // the first context is the bare prompt
    let k_star = mean_row(&all);
    let value = search::find(model, rows, by, progress)?;
    let ck = match c {
        Some(c) => c.solve(&k_star),
        None => k_star.clone(),
    };
    let k = if keys == Keys::Consistent { &k_star } else { &k0 };
    let along = dot(k, &ck);
    if !along.is_normal() {
        return Err(Error::numeric(
            format!("layer {layer}: kᵀC⁻¹k* is {along:e}, so no change along C⁻¹k* meets v*"),
            "edit another layer: this one's keys are silent",
        ));
    }
    let held = model.down(layer, k)?; // W k + b
    let left = value.v_star().iter().zip(held).map(|(v, m)| v - m).collect();
    let right = ck.iter().map(|x| x / along).collect();
    Ok(RankOne { left, right, k_star, k0, value })
}

/// The mean of the rows of a matrix (n, F).
fn mean_row(rows: &Tensor) -> Vec<f64> {
    let [n, f] = rows.dims();
    let mut mean = vec![0.0; f];
    for i in 0..n {
        mean.iter_mut().zip(rows.row_f64(i)).for_each(|(m, k)| *m += k / n as f64);
    }
    mean
}

/// W + left·rightᵀ (D, F), in f64.
pub fn changed(model: &Model, layer: usize, change: &RankOne) -> Vec<f64> {
    let mut w = model.layers[layer].down.w.to_dense::<f64>();
    for (row, l) in w.chunks_exact_mut(change.right.len()).zip(&change.left) {
        row.iter_mut().zip(&change.right).for_each(|(w, r)| *w += l * r);
    }
    w
}
