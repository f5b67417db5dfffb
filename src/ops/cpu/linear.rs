//! Definition of [`crate::ops::linear`]: products with a frozen matrix, panel by panel.

use rayon::prelude::*;

use super::gemm::{View, tiles};
use crate::base::Float;
use crate::tensor::Weight;

/// Rows of x a tile holds: the panel widened for it is used that often.
const HEIGHT: usize = 512;
/// Columns of y a tile holds: the unit of parallel work.
const WIDTH: usize = 128;
/// Inner elements widened at a time, so that a panel in another type stays in the cache.
const DEPTH: usize = 1024;

/// y = x Wᵀ + b.
pub fn forward<T: Float>(x: &[T], w: &Weight, b: Option<&[T]>, y: &mut [T]) {
    let [out, inner] = w.dims();
    tiles(y, out, [HEIGHT, WIDTH]).for_each_init(Vec::new, |scratch, mut y| {
        let x = &x[y.row * inner..][..y.rows * inner];
        for from in (0..inner).step_by(DEPTH) {
            let depth = DEPTH.min(inner - from);
            let w = w.panel(y.col..y.col + y.cols, from..from + depth, scratch);
            let w = View { data: w.data, row_stride: w.row_stride, col_stride: w.col_stride };
            let x = View { data: &x[from..], row_stride: inner, col_stride: 1 };
            y.product(depth, x, w.t(), from > 0);
        }
        if let Some(b) = b {
            let b = &b[y.col..][..y.cols];
            for i in 0..y.rows {
                y.row_mut(i).iter_mut().zip(b).for_each(|(y, &b)| *y += b);
            }
        }
    });
}

/// dx = dy W, or dx += dy W.
pub fn backward<T: Float>(dy: &[T], w: &Weight, dx: &mut [T], add: bool) {
    let [out, inner] = w.dims();
    tiles(dx, inner, [HEIGHT, WIDTH]).for_each_init(Vec::new, |scratch, mut dx| {
        let dy = &dy[dx.row * out..][..dx.rows * out];
        for from in (0..out).step_by(DEPTH) {
            let depth = DEPTH.min(out - from);
            let w = w.panel(from..from + depth, dx.col..dx.col + dx.cols, scratch);
            let w = View { data: w.data, row_stride: w.row_stride, col_stride: w.col_stride };
            let dy = View { data: &dy[from..], row_stride: out, col_stride: 1 };
            dx.product(depth, dy, w, add || from > 0);
        }
    });
}
