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

/// Runs something with a function that gives a(x) and a'(x), once for each activation, so that the
/// loops over it are compiled for one: a choice in them would keep them from becoming vector code.
macro_rules! with {
    ($act:expr, $of:ident => $run:expr) => {
        match $act {
            Act::Relu => with!(@ Relu, $of => $run),
            Act::Gelu => with!(@ Gelu, $of => $run),
            Act::GeluTanh => with!(@ GeluTanh, $of => $run),
            Act::Silu => with!(@ Silu, $of => $run),
        }
    };
    (@ $one:ident, $of:ident => $run:expr) => {{
        let $of = |x| value_and_slope(Act::$one, x);
        $run
    }};
}

/// key from up, and gate where there is one.
pub fn forward<T: Float>(act: Act, up: &[T], gate: Option<&[T]>, key: &mut [T]) {
    with!(act, of => forward_by(of, up, gate, key));
}

#[inline(always)]
fn forward_by<T: Float>(
    of: impl Fn(T) -> (T, T) + Copy + Sync,
    up: &[T],
    gate: Option<&[T]>,
    key: &mut [T],
) {
    assert_eq!(key.len(), up.len(), "act: arrays of two lengths");
    let chunks = key.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK));
    match gate {
        None => chunks.for_each(|(key, up)| {
            vectorised(|| key.iter_mut().zip(up).for_each(|(k, &u)| *k = of(u).0))
        }),
        Some(gate) => chunks.zip(gate.par_chunks(CHUNK)).for_each(|((key, up), gate)| {
            vectorised(|| {
                let inputs = up.iter().zip(gate);
                key.iter_mut().zip(inputs).for_each(|(k, (&u, &g))| *k = of(g).0 * u);
            })
        }),
    }
}

/// dup in place of dkey, and dgate.
pub fn backward<T: Float>(act: Act, up: &[T], gate: Option<(&[T], &mut [T])>, d: &mut [T]) {
    with!(act, of => backward_by(of, up, gate, d));
}

#[inline(always)]
fn backward_by<T: Float>(
    of: impl Fn(T) -> (T, T) + Copy + Sync,
    up: &[T],
    gate: Option<(&[T], &mut [T])>,
    d: &mut [T],
) {
    let chunks = d.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK));
    match gate {
        None => chunks.for_each(|(d, up)| {
            vectorised(|| d.iter_mut().zip(up).for_each(|(d, &u)| *d *= of(u).1))
        }),
        Some((gate, dgate)) => {
            let gates = gate.par_chunks(CHUNK).zip(dgate.par_chunks_mut(CHUNK));
            chunks.zip(gates).for_each(|((d, up), (gate, dgate))| {
                vectorised(|| {
                    let inputs = up.iter().zip(gate);
                    for ((d, dgate), (&u, &g)) in d.iter_mut().zip(dgate).zip(inputs) {
                        let (value, slope) = of(g);
                        *dgate = *d * u * slope;
                        *d *= value;
                    }
                })
            });
        }
    }
}
