//! Definition of [`crate::ops::norm`].

use rayon::prelude::*;

use super::lanes::{self, vectorised};
use crate::base::Float;

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Mean taken off, divided by the standard deviation.
    Layer,
    /// Divided by the root of the mean square.
    Rms,
}

/// y, m, s from x, row by row.
#[allow(clippy::too_many_arguments)] // two inputs, two parameters, three outputs, one switch
pub fn forward<T: Float>(
    kind: NormKind,
    x: &[T],
    g: &[T],
    b: Option<&[T]>,
    eps: T,
    y: &mut [T],
    m: &mut [T],
    s: &mut [T],
) {
    let d = g.len();
    let len = T::of(d as f64);
    let rows = y.par_chunks_mut(d).zip(x.par_chunks(d)).zip(m).zip(s);
    rows.for_each(|(((y, x), m), s)| {
        vectorised(|| {
            *m = match kind {
                NormKind::Layer => lanes::sum(d, |i| x[i]) / len,
                NormKind::Rms => T::default(),
            };
            let c = |i: usize| x[i] - *m;
            // Two passes: mean(x²) − m² loses digits when |m| is large beside the spread.
            *s = T::of(1.0) / (lanes::sum(d, |i| c(i) * c(i)) / len + eps).sqrt();
            for i in 0..d {
                y[i] = g[i] * (c(i) * *s);
            }
            if let Some(b) = b {
                y.iter_mut().zip(b).for_each(|(y, &b)| *y += b);
            }
        })
    });
}

/// dx += s (p − mean(p) − h mean(p h)), p = g dy.
pub fn backward<T: Float>(
    kind: NormKind,
    dy: &[T],
    g: &[T],
    x: &[T],
    m: &[T],
    s: &[T],
    dx: &mut [T],
) {
    let d = g.len();
    let len = T::of(d as f64);
    dx.par_chunks_mut(d).enumerate().for_each(|(row, dx)| {
        let dy = &dy[row * d..][..d];
        let x = &x[row * d..][..d];
        let m = m[row];
        let s = s[row];
        vectorised(|| {
            let p = |i: usize| g[i] * dy[i];
            let h = |i: usize| (x[i] - m) * s;
            let mean_p = match kind {
                NormKind::Layer => lanes::sum(d, p) / len,
                NormKind::Rms => T::default(),
            };
            let mean_ph = lanes::sum(d, |i| p(i) * h(i)) / len;
            for (i, dx) in dx.iter_mut().enumerate() {
                *dx += s * (p(i) - mean_p - h(i) * mean_ph);
            }
        })
    });
}
