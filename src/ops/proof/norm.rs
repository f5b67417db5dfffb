//! Normalisation: `kernels/norm.cu`.
//!
//! Sums are exact: rows are whole numbers with a whole mean, and backward is given a mean and an s
//! that are whole and a power of two. So what is off is a few roundings, however the sums are made:
//!
//! ```text
//! s   1/√(Σ/D + eps): a division and a sum under the root, halved by it, the root, a division: 3 u
//! y   g (c s) + b: those of s, two products, a sum                  ≤ 6 u |g c s| + 2 u |y|
//! dx  s (p − mean(p) − h mean(p h)), mean(p) and mean(p h) a rounding each, s exact: of each of
//!     the three terms at most four                                  ≤ 6 u s Σ|terms| + 2 u |dx|
//! ```
//!
//! eps is ¼, a quarter and more of the variance: another one shows.

use super::numbers::{U, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::launch::Elem;
use crate::gpu::{Array, Engine};
use crate::ops::cpu::norm::{self as definition, NormKind};
use crate::ops::cuda::norm::{self, DeviceNorm, DeviceSaved};

const EPS: f64 = 0.25;

/// [N, D], and whether arrays are off alignment: rows of a part of a warp, of a block, and wider
/// than the registers of the most threads.
const STREAM: [([usize; 2], bool); 4] =
    [([5, 104], false), ([5, 104], true), ([2, 4096], false), ([2, 16_400], false)];
/// The same of heads.
const HEADS: [([usize; 2], bool); 3] = [([7, 104], false), ([7, 104], true), ([3, 264], false)];

/// All of the file.
pub fn all(engine: &Engine, [elem, _]: [Elem; 2]) -> Verdict {
    for kind in [NormKind::Layer, NormKind::Rms] {
        for (sizes, off) in STREAM {
            forward(engine, elem, kind, sizes, off)?;
            backward(engine, elem, kind, sizes, off, Of::Stream)?;
        }
        for (sizes, off) in HEADS {
            heads_forward(engine, elem, kind, sizes, off)?;
            backward(engine, elem, kind, sizes, off, Of::Heads)?;
        }
    }
    Ok(())
}

fn trial(engine: &Engine, kind: NormKind, [n, d]: [usize; 2], off: bool) -> Trial {
    let off_alignment = if off { ", off alignment" } else { "" };
    let mut trial = Trial::new(engine, format!("{kind:?}, N {n}, D {d}{off_alignment}"));
    if off {
        trial.off_alignment();
    }
    trial
}

/// Rows of whole numbers whose mean is that of the row's number.
fn rows(series: u64, [n, d]: [usize; 2], most: u64) -> Vec<f64> {
    let mut x = whole(series, n * d, most);
    for (i, row) in x.chunks_mut(d).enumerate() {
        let excess = row.iter().sum::<f64>() - (i as f64 - 1.0) * d as f64;
        let step = excess.signum();
        // One off each of the first, round and round.
        (0..excess.abs() as usize).for_each(|j| row[j % d] -= step);
    }
    x
}

/// What forward should give, and how far y may be off.
struct Forward {
    y: Vec<f64>,
    m: Vec<f64>,
    s: Vec<f64>,
    bound: Vec<f64>,
}

fn forward_of(kind: NormKind, x: &[f64], g: &[f64], b: Option<&[f64]>) -> Forward {
    let d = g.len();
    let n = x.len() / d;
    let [mut y, mut m, mut s] = [vec![0.0; n * d], vec![0.0; n], vec![0.0; n]];
    definition::forward(kind, x, g, b, EPS, &mut y, &mut m, &mut s);
    let scaled = |at: usize| (g[at % d] * (x[at] - m[at / d]) * s[at / d]).abs();
    let bound = (0..n * d).map(|at| U * (6.0 * scaled(at) + 2.0 * y[at].abs())).collect();
    Forward { y, m, s, bound }
}

/// g and, of layers, b.
fn parameters(trial: &mut Trial, kind: NormKind, d: usize) -> ([Vec<f64>; 2], [Array; 2], bool) {
    let values = [whole(1, d, 7), whole(2, d, 7)];
    let [g, b] = [("g", &values[0]), ("b", &values[1])].map(|(n, x)| trial.input(n, Elem::F32, x));
    (values, [g, b], kind == NormKind::Layer)
}

/// x += added, and its normalisation.
fn forward(engine: &Engine, elem: Elem, kind: NormKind, [n, d]: [usize; 2], off: bool) -> Verdict {
    let mut trial = trial(engine, kind, [n, d], off);
    let ([g, b], [gain, bias], biased) = parameters(&mut trial, kind, d);
    let x = rows(3, [n, d], 9);
    let added = rows(4, [n, d], 2);
    let sum: Vec<f64> = x.iter().zip(&added).map(|(x, added)| x + added).collect();
    let want = forward_of(kind, &sum, &g, biased.then_some(&b));
    let mut x = trial.inout("x", Elem::F32, &x);
    let added = trial.input("added", Elem::F32, &added);
    let mut kept = trial.output("kept", Elem::F32, n * d);
    let mut y = trial.output("y", elem, n * d);
    let [mut m, mut s] = ["m", "s"].map(|name| trial.output(name, Elem::F32, n));
    let bias = biased.then_some(&bias);
    let p = DeviceNorm { kind, eps: EPS as f32, gain: &gain, bias };
    trial.run("norm_fwd", || {
        let saved = DeviceSaved { x: &mut kept, m: &mut m, s: &mut s };
        norm::forward_adding(engine, &mut x, &added, p, &mut y, saved);
    })?;
    trial.equal("norm_fwd", &x, &[n, d], &sum)?;
    trial.equal("norm_fwd", &kept, &[n, d], &sum)?;
    trial.equal("norm_fwd", &m, &[n], &want.m)?;
    trial.within("norm_fwd", &s, &[n], &want.s, |i| 4.0 * U * want.s[i])?;
    trial.within("norm_fwd", &y, &[n, d], &want.y, |at| want.bound[at])
}

fn heads_forward(
    engine: &Engine,
    elem: Elem,
    kind: NormKind,
    [n, d]: [usize; 2],
    off: bool,
) -> Verdict {
    let mut trial = trial(engine, kind, [n, d], off);
    let ([g, b], [gain, bias], biased) = parameters(&mut trial, kind, d);
    let x = rows(3, [n, d], 9);
    let want = forward_of(kind, &x, &g, biased.then_some(&b));
    let mut y = trial.inout("x", elem, &x);
    let mut kept = trial.output("kept", elem, n * d);
    let [mut m, mut s] = ["m", "s"].map(|name| trial.output(name, Elem::F32, n));
    let bias = biased.then_some(&bias);
    let p = DeviceNorm { kind, eps: EPS as f32, gain: &gain, bias };
    trial.run("norm_heads_fwd", || {
        let saved = DeviceSaved { x: &mut kept, m: &mut m, s: &mut s };
        norm::heads_forward(engine, &mut y, p, saved);
    })?;
    trial.equal("norm_heads_fwd", &kept, &[n, d], &x)?;
    trial.equal("norm_heads_fwd", &m, &[n], &want.m)?;
    trial.within("norm_heads_fwd", &s, &[n], &want.s, |i| 4.0 * U * want.s[i])?;
    trial.within("norm_heads_fwd", &y, &[n, d], &want.y, |at| want.bound[at])
}

/// What is normalised: rows of the stream, whose gradient is added to another, or heads, whose
/// gradient takes the place of what it is made from.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Stream,
    Heads,
}

fn backward(
    engine: &Engine,
    elem: Elem,
    kind: NormKind,
    [n, d]: [usize; 2],
    off: bool,
    of: Of,
) -> Verdict {
    let mut trial = trial(engine, kind, [n, d], off);
    let ([g, _], [gain, _], _) = parameters(&mut trial, kind, d);
    let x = rows(3, [n, d], 9);
    let dy = whole(5, n * d, 5);
    let layer = kind == NormKind::Layer;
    let mean: Vec<f64> = (0..n).map(|i| if layer { i as f64 - 1.0 } else { 0.0 }).collect();
    let rstd: Vec<f64> = (0..n).map(|i| f64::powi(2.0, -1 - (i % 3) as i32)).collect();
    let start = if of == Of::Stream { whole(6, n * d, 9) } else { vec![0.0; n * d] };
    let mut want = start.clone();
    definition::backward(kind, &dy, &g, &x, &mean, &rstd, &mut want);
    let bound = backward_bound(&dy, &g, &x, [&mean, &rstd], &want);

    let m = trial.input("m", Elem::F32, &mean);
    let s = trial.input("s", Elem::F32, &rstd);
    let p = DeviceNorm { kind, eps: EPS as f32, gain: &gain, bias: None };
    let kernel = if of == Of::Stream { "norm_bwd" } else { "norm_heads_bwd" };
    let dx = match of {
        Of::Stream => {
            let x = trial.input("x", Elem::F32, &x);
            let dy = trial.input("dy", elem, &dy);
            let mut dx = trial.inout("dx", Elem::F32, &start);
            trial.run(kernel, || norm::backward(engine, &dy, p, &x, [&m, &s], &mut dx))?;
            dx
        }
        Of::Heads => {
            let x = trial.input("x", elem, &x);
            let mut d = trial.inout("dx", elem, &dy);
            trial.run(kernel, || norm::heads_backward(engine, p, &x, [&m, &s], &mut d))?;
            d
        }
    };
    trial.within(kernel, &dx, &[n, d], &want, |at| bound[at])
}

fn backward_bound(
    dy: &[f64],
    g: &[f64],
    x: &[f64],
    [mean, rstd]: [&[f64]; 2],
    want: &[f64],
) -> Vec<f64> {
    let d = g.len();
    let p = |at: usize| g[at % d] * dy[at];
    let h = |at: usize| (x[at] - mean[at / d]) * rstd[at / d];
    let each = (0..mean.len()).flat_map(|i| {
        let row = i * d..(i + 1) * d;
        let mean_p = row.clone().map(p).sum::<f64>() / d as f64;
        let mean_ph = row.clone().map(|at| p(at) * h(at)).sum::<f64>() / d as f64;
        row.map(move |at| {
            let terms = p(at).abs() + mean_p.abs() + (h(at) * mean_ph).abs();
            U * (6.0 * rstd[i] * terms + 2.0 * want[at].abs())
        })
    });
    each.collect()
}
