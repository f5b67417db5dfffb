//! Definition of [`crate::ops::adam`].

use rayon::prelude::*;

use crate::base::Float;

/// Numbers that a task moves.
const PART: usize = 1 << 14;

/// β₁, β₂ of the moments.
pub const BETA: [f64; 2] = [0.9, 0.999];
/// ε under the fraction.
pub const EPS: f64 = 1e-8;

/// 1 − β₁ⁿ and 1 − β₂ⁿ.
pub fn corrections(n: usize) -> [f64; 2] {
    BETA.map(|b| 1.0 - b.powi(n as i32))
}

/// The n-th step, from 1.
pub struct Update<T> {
    lr: T,
    decay: T,
    beta: [T; 2],
    rest: [T; 2], // 1 − β
    correction: [T; 2],
    eps: T,
}

impl<T: Float> Update<T> {
    /// With a learning rate.
    pub fn new(lr: f64, n: usize) -> Update<T> {
        Update {
            lr: T::of(lr),
            decay: T::default(),
            beta: BETA.map(T::of),
            rest: BETA.map(|b| T::of(1.0 - b)),
            correction: corrections(n).map(T::of),
            eps: T::of(EPS),
        }
    }

    /// The same with weight decay.
    pub fn decaying(self, decay: f64) -> Update<T> {
        Update { decay: T::of(decay), ..self }
    }

    /// Moves one number.
    #[inline(always)]
    pub fn apply(&self, g: T, m: &mut T, v: &mut T, x: &mut T) {
        *m = self.beta[0] * *m + self.rest[0] * g;
        *v = self.beta[1] * *v + self.rest[1] * g * g;
        *x -= self.lr * (*m / self.correction[0]) / ((*v / self.correction[1]).sqrt() + self.eps);
    }
}

/// Moves all of them, and keeps them in bounds: centres, and how far from them they may be.
pub fn step<T: Float>(
    update: &Update<T>,
    bound: Option<(&[T], T)>,
    g: &[T],
    m: &mut [T],
    v: &mut [T],
    x: &mut [T],
) {
    let moments = m.par_chunks_mut(PART).zip(v.par_chunks_mut(PART));
    let parts = x.par_chunks_mut(PART).zip(moments).zip(g.par_chunks(PART));
    parts.enumerate().for_each(|(part, ((x, (m, v)), g))| {
        for (i, &g) in g.iter().enumerate() {
            let g = g + update.decay * x[i];
            update.apply(g, &mut m[i], &mut v[i], &mut x[i]);
        }
        if let Some((centre, radius)) = bound {
            let centre = &centre[part * PART..][..x.len()];
            for (x, &c) in x.iter_mut().zip(centre) {
                let (low, high) = (c - radius, c + radius);
                *x = if *x < low { low } else { *x };
                *x = if *x > high { high } else { *x };
            }
        }
    });
}
