//! Definition of [`crate::ops::loss`].

use rayon::prelude::*;

use super::lanes::{self, vectorised};
use crate::base::Float;

/// The loss of a row of logits, and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowLoss {
    /// −ln p of a token.
    CrossEntropy {
        /// The token.
        target: u32,
        /// Factor of the loss and of its gradient.
        weight: f64,
    },
    /// KL(p ‖ p⁰).
    Kl {
        /// The row of ln p⁰ among the references.
        reference: usize,
        /// Factor of the loss and of its gradient.
        weight: f64,
    },
}

/// What a pass found of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowResult {
    /// Its loss, without the weight.
    pub loss: f64,
    /// Whether no token is likelier than the target; false for KL.
    pub is_argmax: bool,
}

/// ln Σ exp z, by the largest.
#[inline(always)]
fn log_sum<T: Float>(z: &[T]) -> T {
    let top = lanes::max(z);
    top + lanes::sum(z.len(), |i| (z[i] - top).exp()).ln()
}

/// ln softmax of chosen rows.
pub fn log_softmax<T: Float>(z: &[T], v: usize, rows: &[usize], logp: &mut [T]) {
    logp.par_chunks_mut(v).zip(rows).for_each(|(out, &row)| {
        let z = &z[row * v..][..v];
        vectorised(|| {
            let lse = log_sum(z);
            out.iter_mut().zip(z).for_each(|(o, &z)| *o = z - lse);
        })
    });
}

/// Losses, and their gradients in place of the logits.
pub fn gradient<T: Float>(
    z: &mut [T],
    v: usize,
    losses: &[RowLoss],
    reference: &[T],
    cap: Option<f64>,
) -> Vec<RowResult> {
    let rows = z.par_chunks_mut(v).zip(losses);
    rows.map(|(z, loss)| vectorised(|| row(z, loss, reference, cap))).collect()
}

#[inline(always)]
fn row<T: Float>(z: &mut [T], loss: &RowLoss, reference: &[T], cap: Option<f64>) -> RowResult {
    let one = T::of(1.0);
    let inverse = T::of(cap.map_or(0.0, |c| 1.0 / c));
    let slope = |z: T| one - (z * inverse) * (z * inverse);
    match *loss {
        RowLoss::CrossEntropy { target, weight } => {
            let (y, w) = (target as usize, T::of(weight));
            let top = lanes::max(z);
            let below = top - z[y];
            let at_target = w * slope(z[y]);
            let slopes: Vec<T> = cap.iter().flat_map(|_| z.iter().map(|&z| slope(z))).collect();
            z.iter_mut().for_each(|z| *z = (*z - top).exp());
            let total = lanes::sum(z.len(), |i| z[i]);
            z.iter_mut().for_each(|z| *z *= w / total);
            z.iter_mut().zip(&slopes).for_each(|(z, &slope)| *z *= slope);
            z[y] -= at_target;
            RowResult { loss: (below + total.ln()).f64(), is_argmax: below <= T::default() }
        }
        RowLoss::Kl { reference: at, weight } => {
            let w = T::of(weight);
            let reference = &reference[at * z.len()..][..z.len()];
            let lse = log_sum(z);
            let gap = |i: usize, z: T| z - lse - reference[i];
            let kl = lanes::sum(z.len(), |i| (z[i] - lse).exp() * gap(i, z[i]));
            for (i, z) in z.iter_mut().enumerate() {
                *z = w * (*z - lse).exp() * (gap(i, *z) - kl) * slope(*z);
            }
            RowResult { loss: kl.f64(), is_argmax: false }
        }
    }
}
