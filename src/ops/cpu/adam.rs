//! Definition of [`crate::ops::adam`].

use crate::base::Float;

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
            beta: BETA.map(T::of),
            rest: BETA.map(|b| T::of(1.0 - b)),
            correction: corrections(n).map(T::of),
            eps: T::of(EPS),
        }
    }

    /// Moves one number.
    #[inline(always)]
    pub fn apply(&self, g: T, m: &mut T, v: &mut T, x: &mut T) {
        *m = self.beta[0] * *m + self.rest[0] * g;
        *v = self.beta[1] * *v + self.rest[1] * g * g;
        *x -= self.lr * (*m / self.correction[0]) / ((*v / self.correction[1]).sqrt() + self.eps);
    }
}

/// Moves all of them.
pub fn step<T: Float>(update: &Update<T>, g: &[T], m: &mut [T], v: &mut [T], x: &mut [T]) {
    for (i, &g) in g.iter().enumerate() {
        update.apply(g, &mut m[i], &mut v[i], &mut x[i]);
    }
}
