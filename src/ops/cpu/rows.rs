//! Definition of [`crate::ops::rows`].

use crate::base::Float;

/// `y_i = x_rows[i]`.
pub fn gather<T: Float>(x: &[T], d: usize, rows: &[usize], y: &mut [T]) {
    for (y, &row) in y.chunks_exact_mut(d).zip(rows) {
        y.copy_from_slice(&x[row * d..][..d]);
    }
}

/// `x_rows[i] += y_i`.
pub fn scatter_add<T: Float>(x: &mut [T], d: usize, rows: &[usize], y: &[T]) {
    for (y, &row) in y.chunks_exact(d).zip(rows) {
        add(&mut x[row * d..][..d], y);
    }
}

/// x += y.
pub fn add<T: Float>(x: &mut [T], y: &[T]) {
    x.iter_mut().zip(y).for_each(|(x, &y)| *x += y);
}
