//! Definition of [`crate::ops::act`].

use rayon::prelude::*;

use super::lanes::vectorised;
use crate::base::Float;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// max(x, 0).
    Relu,
    /// x·Φ(x): `gelu`.
    Gelu,
    /// GELU by its tanh form: `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// x·σ(x).
    Silu,
}

/// Elements a task takes.
const CHUNK: usize = 4096;

/// a(x) and a'(x).
#[inline(always)]
fn value_and_slope<T: Float>(act: Act, x: T) -> (T, T) {
    let zero = T::default();
    let one = T::of(1.0);
    match act {
        Act::Relu if x > zero => (x, one),
        Act::Relu => (zero, zero),
        Act::Silu => x_sigma(x, x, one),
        Act::Gelu => {
            let [below, density] = x.normal();
            (x * below, below + x * density)
        }
        Act::GeluTanh => {
            // (1 + tanh u)/2 = σ(2u), which cancels nothing where tanh u is near −1.
            let root = T::of((8.0 / std::f64::consts::PI).sqrt());
            let cubic = T::of(0.044715);
            let u2 = root * (x + cubic * x * x * x);
            x_sigma(x, u2, root * (one + T::of(3.0) * cubic * x * x))
        }
    }
}

/// x σ(u) and its slope σ + x σ (1 − σ) u', with u' = du/dx.
#[inline(always)]
fn x_sigma<T: Float>(x: T, u: T, du: T) -> (T, T) {
    let one = T::of(1.0);
    let e = (-u).exp();
    let s = one / (one + e);
    // 1 − s, which cancels where s is near 1, but does not overflow where e does.
    let rest = if e < one { e * s } else { one - s };
    (x * s, s + x * s * rest * du)
}

/// key from up, and gate where there is one.
pub fn forward<T: Float>(act: Act, up: &[T], gate: Option<&[T]>, key: &mut [T]) {
    key.par_chunks_mut(CHUNK).enumerate().for_each(|(c, key)| {
        let up = &up[c * CHUNK..][..key.len()];
        vectorised(|| match gate {
            None => key.iter_mut().zip(up).for_each(|(k, &u)| *k = value_and_slope(act, u).0),
            Some(gate) => {
                let gate = &gate[c * CHUNK..][..key.len()];
                for (i, k) in key.iter_mut().enumerate() {
                    *k = value_and_slope(act, gate[i]).0 * up[i];
                }
            }
        })
    });
}

/// dup in place of dkey, and dgate.
pub fn backward<T: Float>(act: Act, up: &[T], gate: Option<(&[T], &mut [T])>, d: &mut [T]) {
    let chunks = d.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK));
    match gate {
        None => chunks.for_each(|(d, up)| {
            vectorised(|| d.iter_mut().zip(up).for_each(|(d, &u)| *d *= value_and_slope(act, u).1))
        }),
        Some((gate, dgate)) => {
            let gates = gate.par_chunks(CHUNK).zip(dgate.par_chunks_mut(CHUNK));
            chunks.zip(gates).for_each(|((d, up), (gate, dgate))| {
                vectorised(|| {
                    for i in 0..d.len() {
                        let (value, slope) = value_and_slope(act, gate[i]);
                        dgate[i] = d[i] * up[i] * slope;
                        d[i] *= value;
                    }
                })
            });
        }
    }
}
