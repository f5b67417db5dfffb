//! A step of centred RMSprop on a tensor of parameters, on the host.
//!
//! ```text
//! v ← α v + (1 − α) g²      m ← α m + (1 − α) g                    α = 0.99, ε = 1e-8
//! x ← x − lr_n g / (√(v − m²) + ε)                                 v − m² at least 0
//!
//! lr_n = lr n/w  while n < w,  then lr (N − n)/(N − w)             in step n, from 0, of N
//! ```
//!
//! w steps of warm-up; the first moves nothing. Sources: Graves 2013, arXiv:1308.0850, equations 38
//! to 45, without momentum; names and ε are PyTorch's.

use crate::base::Float;
use crate::ops::adam::AdamMoments;
use crate::tensor::{Precision, Tensor};

/// α.
const ALPHA: f64 = 0.99;
/// ε.
const EPS: f64 = 1e-8;

/// How the rate goes up and down again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// w.
    pub warm_up: usize,
    /// N.
    pub steps: usize,
}

impl Schedule {
    /// lr_n/lr.
    pub fn factor(&self, n: usize) -> f64 {
        let Schedule { warm_up, steps } = *self;
        match n < warm_up {
            true => n as f64 / warm_up as f64,
            false => steps.saturating_sub(n) as f64 / steps.saturating_sub(warm_up).max(1) as f64,
        }
    }
}

/// Moves x against its gradient g.
pub fn step(lr: f64, g: &Tensor, moments: &mut AdamMoments, x: &mut Tensor) {
    match x.precision() {
        Precision::F32 => step_in::<f32>(lr, g, moments, x),
        Precision::F64 => step_in::<f64>(lr, g, moments, x),
    }
}

fn step_in<T: Float>(lr: f64, g: &Tensor, moments: &mut AdamMoments, x: &mut Tensor) {
    let (lr, alpha, rest, eps) = (T::of(lr), T::of(ALPHA), T::of(1.0 - ALPHA), T::of(EPS));
    let AdamMoments { m, v, steps } = moments;
    *steps += 1;
    let known = m.get_mut::<T>().iter_mut().zip(v.get_mut::<T>());
    for ((x, &g), (m, v)) in x.get_mut::<T>().iter_mut().zip(g.get::<T>()).zip(known) {
        *v = alpha * *v + rest * g * g;
        *m = alpha * *m + rest * g;
        let centred = (*v - *m * *m).max(T::of(0.0));
        *x -= lr * g / (centred.sqrt() + eps);
    }
}
