//! Losses: `kernels/loss.cu`.
//!
//! Logits are whole, so what the exponential is taken of is exact but for ln Σ. In roundings u,
//! with an expf off by 4 u and a logf by 2 u of itself, and a sum of V numbers in the block's
//! threads, its warps and its warps' lanes off by DEPTH of itself:
//!
//! ```text
//! lse    4 + DEPTH of Σ, and 3 of |lse|                                       = E
//! ln p   E + |ln p|         p   that much and 4 u more, of p
//! KL     of every p |ln p − ln p⁰|: what p and the difference are off, and DEPTH
//! ```
//!
//! A cap that is a power of two divides exactly: its slope, at most 1, is exact, and costs a
//! product.

use super::numbers::{U, decode, encode, hash, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::kernels::loss::THREADS;
use crate::gpu::launch::Elem;
use crate::ops::cpu::loss::{self as definition, RowLoss};
use crate::ops::cuda::loss::{self, DeviceLossRows};

const V: usize = 1031; // more than a block has threads
const DEPTH: f64 = (V.div_ceil(THREADS) + 10) as f64;
/// Larger than any |ln p| here.
const LARGEST: f64 = 24.0;
/// How far lse is off.
const E: f64 = U * (4.0 + DEPTH + 3.0 * LARGEST);

/// All of the file.
pub fn all(engine: &Engine, _: [Elem; 2]) -> Verdict {
    log_softmax(engine)?;
    gradient(engine, None)?;
    gradient(engine, Some(8.0))?;
    scale(engine)
}

/// R rows of whole logits.
fn logits(series: u64, r: usize) -> Vec<f64> {
    whole(series, r * V, 6)
}

fn log_softmax(engine: &Engine) -> Verdict {
    let mut trial = Trial::new(engine, format!("V {V}"));
    let z = logits(1, 4);
    let rows = [3, 0, 1];
    let mut want = vec![0.0; 3 * V];
    definition::log_softmax(&z, V, &rows, &mut want);
    let z = trial.input("z", Elem::F32, &z);
    let rows = trial.input("rows", Elem::I32, &rows.map(|row| row as f64));
    let mut logp = trial.output("logp", Elem::F32, 3 * V);
    trial.run("log_softmax", || loss::log_softmax(engine, &z, &rows, V, &mut logp))?;
    trial.within("log_softmax", &logp, &[3, V], &want, |i| E + U * want[i].abs())
}

/// The losses of five rows; the token of the first is the likeliest.
fn losses(z: &[f64]) -> [RowLoss; 5] {
    let likeliest = (0..V).max_by(|a, b| z[*a].total_cmp(&z[*b])).expect("a token") as u32;
    [
        RowLoss::CrossEntropy { target: likeliest, weight: 0.5 },
        RowLoss::Kl { reference: 1, weight: 2.0 },
        RowLoss::CrossEntropy { target: 1030, weight: 0.25 },
        RowLoss::Kl { reference: 0, weight: 1.0 },
        RowLoss::CrossEntropy { target: 513, weight: 1.0 },
    ]
}

fn gradient(engine: &Engine, cap: Option<f64>) -> Verdict {
    let mut trial = Trial::new(engine, format!("V {V}, cap {cap:?}"));
    let z = logits(2, 5);
    // No token is as likely as the second one's but the likeliest.
    let losses = losses(&z);
    let other = logits(3, 2);
    let mut reference = vec![0.0; 2 * V];
    definition::log_softmax(&other, V, &[0, 1], &mut reference);
    let reference = decode(Elem::F32, &encode(Elem::F32, &reference));
    let mut want = z.clone();
    let results = definition::gradient(&mut want, V, &losses, &reference, cap);

    let target = losses.map(|loss| match loss {
        RowLoss::CrossEntropy { target, .. } => f64::from(target),
        RowLoss::Kl { reference, .. } => -1.0 - reference as f64,
    });
    let weight = losses.map(|loss| match loss {
        RowLoss::CrossEntropy { weight, .. } | RowLoss::Kl { weight, .. } => weight,
    });
    let mut rows = DeviceLossRows {
        groups: trial.input("groups", Elem::I32, &[0.0, 5.0]),
        target: trial.input("target", Elem::I32, &target),
        weight: trial.input("weight", Elem::F32, &weight),
        scaled: trial.input("scaled", Elem::F32, &weight),
        loss: trial.output("loss", Elem::F32, 5),
        is_argmax: trial.output("is_argmax", Elem::I32, 5),
    };
    let mut dz = trial.inout("z", Elem::F32, &z);
    let p0 = trial.input("reference", Elem::F32, &reference);
    let kernel = "loss_gradient";
    trial.run(kernel, || loss::gradient(engine, &mut dz, V, &mut rows, 0..5, &p0, cap))?;

    let bounds = losses.iter().zip(z.chunks(V)).map(|(loss, z)| bounds(loss, z, &reference));
    let (of_loss, of_dz): (Vec<f64>, Vec<Vec<f64>>) = bounds.unzip();
    let of_dz = of_dz.concat();
    let want_loss: Vec<f64> = results.iter().map(|result| result.loss).collect();
    let flags: Vec<f64> = results.iter().map(|r| f64::from(u8::from(r.is_argmax))).collect();
    trial.within(kernel, &rows.loss, &[5], &want_loss, |i| of_loss[i])?;
    trial.equal(kernel, &rows.is_argmax, &[5], &flags)?;
    trial.within(kernel, &dz, &[5, V], &want, |at| of_dz[at])
}

/// How far the loss of a row and its gradient may be off.
fn bounds(loss: &RowLoss, z: &[f64], reference: &[f64]) -> (f64, Vec<f64>) {
    let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
    let off = E + U * LARGEST; // of ln p
    match *loss {
        RowLoss::CrossEntropy { weight, .. } => {
            let each = |z: &f64| weight * ((z - lse).exp() * (off + 5.0 * U) + 3.0 * U);
            (off, z.iter().map(each).collect())
        }
        RowLoss::Kl { reference: row, weight } => {
            let reference = &reference[row * V..][..V];
            let gap = |i: usize| z[i] - lse - reference[i];
            let of_gap = |i: usize| off + U * gap(i).abs();
            let p = |i: usize| (z[i] - lse).exp();
            let of_p = off + 4.0 * U;
            let term = |i: usize| p(i) * (gap(i).abs() * (of_p + (DEPTH + 1.0) * U) + of_gap(i));
            let of_kl: f64 = (0..V).map(term).sum();
            let kl: f64 = (0..V).map(|i| p(i) * gap(i)).sum();
            let each = |i: usize| {
                let left = gap(i) - kl;
                weight * p(i) * (left.abs() * (of_p + 4.0 * U) + of_gap(i) + of_kl)
            };
            (of_kl, (0..V).map(each).collect())
        }
    }
}

fn scale(engine: &Engine) -> Verdict {
    let mut trial = Trial::new(engine, "2 groups of 600 and 3 rows");
    let r = 605; // more than a block has threads; the last two belong to no group
    let weight: Vec<f64> = whole(4, r, 60).iter().map(|x| x / 8.0).collect();
    let target: Vec<f64> = (0..r).map(|i| (hash(5, i) % 5) as f64 - 2.0).collect();
    let factor = [0.5, 3.0];
    let before = whole(6, r, 9);
    let want: Vec<f64> = (0..r)
        .map(|i| match i {
            603.. => before[i],
            _ if target[i] < 0.0 => weight[i],
            _ => weight[i] * factor[usize::from(i >= 600)],
        })
        .collect();
    let mut rows = DeviceLossRows {
        groups: trial.input("groups", Elem::I32, &[0.0, 600.0, 600.0, 603.0]),
        target: trial.input("target", Elem::I32, &target),
        weight: trial.input("weight", Elem::F32, &weight),
        scaled: trial.inout("scaled", Elem::F32, &before),
        loss: trial.input("loss", Elem::F32, &[]),
        is_argmax: trial.input("is_argmax", Elem::I32, &[]),
    };
    let factor = trial.input("factor", Elem::F32, &factor);
    trial.run("loss_scale", || loss::scale(engine, &mut rows, &factor))?;
    trial.equal("loss_scale", &rows.scaled, &[r], &want)
}
