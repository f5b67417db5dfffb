//! Launches of `kernels/linear.cu`.

use crate::gpu::kernels::linear::{Linear, THREADS, TILE};
use crate::gpu::launch::{Elem, Grid, Place};
use crate::gpu::{Array, Engine};
use crate::tensor::OnDevice;

/// W (out, in) on the device, as it is stored.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The elements.
    pub w: &'a Array,
    /// out.
    pub out: usize,
    /// in.
    pub inner: usize,
    /// Elements from a row to the next.
    pub row_stride: usize,
    /// Elements from a column to the next.
    pub col_stride: usize,
}

impl<'a> From<&'a OnDevice> for Matrix<'a> {
    fn from(w: &'a OnDevice) -> Matrix<'a> {
        let OnDevice { w, out, inner, row_stride, col_stride } = w;
        let (out, inner, row_stride, col_stride) = (*out, *inner, *row_stride, *col_stride);
        Matrix { w, out, inner, row_stride, col_stride }
    }
}

/// y (N, out) = x (N, in) Wᵀ + b.
pub fn forward(engine: &Engine, x: &Array, w: Matrix, b: Option<&Array>, y: &mut Array) {
    let sizes = [x.len() / w.inner, w.inner, w.out];
    product(engine, x, w.w, [w.col_stride, w.row_stride], b, false, sizes, y);
}

/// dx (N, in) = dy (N, out) W; added to dx where `add`.
pub fn backward(engine: &Engine, dy: &Array, w: Matrix, dx: &mut Array, add: bool) {
    let sizes = [dy.len() / w.out, w.out, w.inner];
    product(engine, dy, w.w, [w.row_stride, w.col_stride], None, add, sizes, dx);
}

#[allow(clippy::too_many_arguments, reason = "two products with one kernel")]
fn product(
    engine: &Engine,
    a: &Array,
    w: &Array,
    [stride_k, stride_m]: [usize; 2],
    b: Option<&Array>,
    add: bool,
    [n, k, m]: [usize; 3],
    c: &mut Array,
) {
    let [across, down] = [m, n].map(|size| size.div_ceil(TILE) as u32);
    let grid = Grid { blocks: [across, down, 1], threads: [THREADS as u32, 1, 1] };
    let none = Place { at: 0, len: 0, elem: Elem::F32 };
    Linear {
        a: a.read(),
        w: w.read(),
        b: b.map_or_else(|| none.into(), Array::read),
        stride_k: stride_k as i64,
        stride_m: stride_m as i64,
        biased: i32::from(b.is_some()),
        add: i32::from(add),
        N: n as i32,
        K: k as i32,
        M: m as i32,
        c: c.update(),
    }
    .launch(engine, grid);
}
