//! Gradients of matrices: `kernels/weight_gradient.cu`.
//!
//! On whole numbers they are exact ([`super::numbers`]). Of numbers of two parts the kernel leaves
//! out lo lo:
//!
//! ```text
//! dW = what was there + dyᵀ x − lo(dy)ᵀ lo(x)
//! ```

use super::numbers::{EXACT, factor, low, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::launch::Elem;
use crate::ops::cpu::weight_gradient::accumulate as definition;
use crate::ops::cuda::weight_gradient;

/// Cuts, and [out, in]. Tiles of 128 rows and columns are crossed, in whole packs and not; pieces
/// are full, short, and empty.
const CASES: [(&[usize], [usize; 2]); 2] =
    [(&[0, 128, 128, 131, 171], [130, 137]), (&[0, 5, 133], [144, 136])];

/// `weight_gradient`.
pub fn all(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    CASES.into_iter().try_for_each(|(cuts, sizes)| gradient(engine, elem, cuts, sizes))
}

fn gradient(engine: &Engine, elem: Elem, cuts: &[usize], [out, inner]: [usize; 2]) -> Verdict {
    let n = cuts[cuts.len() - 1];
    let mut trial = Trial::new(engine, format!("{n} tokens, out {out}, in {inner}"));
    let [dy, x] = [factor(1, n * out, elem), factor(2, n * inner, elem)];
    let start = whole(3, out * inner, 1000);
    let of = |dy: &[f64], x: &[f64]| {
        let mut dw = vec![0.0; out * inner];
        definition(dy, x, cuts, [out, inner], &mut dw);
        dw
    };
    let [sizes_dy, sizes_x] = [&dy, &x].map(|x| x.iter().map(|x| x.abs()).collect::<Vec<_>>());
    let largest = of(&sizes_dy, &sizes_x).into_iter().fold(0.0, f64::max);
    assert!(largest < EXACT, "sums up to {largest} are not exact");
    let left_out = of(&low(&dy), &low(&x));
    let want: Vec<f64> = (start.iter().zip(of(&dy, &x)).zip(left_out))
        .map(|((start, sum), left_out)| start + sum - left_out)
        .collect();
    let at: Vec<f64> = cuts.iter().map(|&cut| cut as f64).collect();
    let dy = trial.input("dy", elem, &dy);
    let x = trial.input("x", elem, &x);
    let cuts = trial.input("cuts", Elem::I32, &at);
    let mut dw = trial.inout("dW", Elem::F32, &start);
    trial.run("weight_gradient", || {
        weight_gradient::accumulate(engine, &dy, &x, &cuts, [out, inner], &mut dw);
    })?;
    trial.equal("weight_gradient", &dw, &[out, inner], &want)
}
