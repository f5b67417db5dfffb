//! Definition of [`crate::ops::loss`].

use rayon::prelude::*;

use super::lanes::{self, vectorised};
use crate::base::Float;
use crate::ops::loss::{Aim, Said};

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
pub fn gradient<T: Float>(z: &mut [T], v: usize, aims: &[Aim], first: &[T]) -> Vec<Said> {
    let rows = z.par_chunks_mut(v).zip(aims);
    rows.map(|(z, aim)| vectorised(|| row(z, aim, first))).collect()
}

#[inline(always)]
fn row<T: Float>(z: &mut [T], aim: &Aim, first: &[T]) -> Said {
    match *aim {
        Aim::Say { target, weight } => {
            let (y, w, top) = (target as usize, T::of(weight), lanes::max(z));
            let below = top - z[y];
            z.iter_mut().for_each(|z| *z = (*z - top).exp());
            let total = lanes::sum(z.len(), |i| z[i]);
            z.iter_mut().for_each(|z| *z *= w / total);
            z[y] -= w;
            Said { loss: (below + total.ln()).f64(), top: below <= T::default() }
        }
        Aim::Stay { first: at, weight } => {
            let lse = log_sum(z);
            let (w, first) = (T::of(weight), &first[at * z.len()..][..z.len()]);
            let gap = |i: usize, z: T| z - lse - first[i];
            let kl = lanes::sum(z.len(), |i| (z[i] - lse).exp() * gap(i, z[i]));
            for (i, z) in z.iter_mut().enumerate() {
                *z = w * (*z - lse).exp() * (gap(i, *z) - kl);
            }
            Said { loss: kl.f64(), top: false }
        }
    }
}
