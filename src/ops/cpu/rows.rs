//! Definition of [`crate::ops::rows`].

use rayon::prelude::*;

use crate::base::Float;

/// Where a part of a row is: the row's width, the part's first column and its width.
type Part = [usize; 3];

/// `y_i = part of x_rows[i]`.
pub fn gather<T: Float>(x: &[T], [wide, from, d]: Part, rows: &[usize], y: &mut [T]) {
    for (y, &row) in y.chunks_exact_mut(d).zip(rows) {
        y.copy_from_slice(&x[row * wide + from..][..d]);
    }
}

/// `part of x_rows[i] += y_i`.
pub fn scatter_add<T: Float>(x: &mut [T], [wide, from, d]: Part, rows: &[usize], y: &[T]) {
    for (y, &row) in y.chunks_exact(d).zip(rows) {
        add(&mut x[row * wide + from..][..d], y);
    }
}

/// x *= a.
pub fn scale<T: Float>(x: &mut [T], a: T) {
    x.iter_mut().for_each(|x| *x *= a);
}

/// x ← c tanh(x / c).
pub fn cap<T: Float>(x: &mut [T], c: T) {
    x.par_iter_mut().with_min_len(1 << 12).for_each(|x| *x = c * (*x / c).tanh());
}

/// x += y.
pub fn add<T: Float>(x: &mut [T], y: &[T]) {
    x.iter_mut().zip(y).for_each(|(x, &y)| *x += y);
}
