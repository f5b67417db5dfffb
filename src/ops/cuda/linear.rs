//! Launches of `kernels/linear_mma.cu` and, for a few rows, `kernels/linear_row.cu`.

use crate::gpu::kernels::linear_mma::{self as mma, LinearMma};
use crate::gpu::kernels::linear_row::{self as row, LinearRow};
use crate::gpu::launch::{Elem, Grid, Place};
use crate::gpu::{Array, Engine};

/// Rows up to which a forward product goes another way.
pub const FEW: usize = row::ROWS;

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

/// y (N, out) = x (N, in) Wᵀ + b. A row's bits do not depend on the others, nor, among up to
/// [`FEW`] of them and among more, on how many there are.
pub fn forward(engine: &Engine, x: &Array, w: Matrix, b: Option<&Array>, y: &mut Array) {
    let sizes = [x.len() / w.inner, w.inner, w.out];
    product(
        engine,
        x,
        w.w,
        [w.col_stride, w.row_stride],
        b,
        false,
        sizes,
        (1..=FEW).contains(&sizes[0]),
        y,
    );
}

/// dx (N, in) = dy (N, out) W; added to dx where `add`. A row's bits do not depend on the others.
pub fn backward(engine: &Engine, dy: &Array, w: Matrix, dx: &mut Array, add: bool) {
    let sizes = [dy.len() / w.out, w.out, w.inner];
    product(engine, dy, w.w, [w.row_stride, w.col_stride], None, add, sizes, false, dx);
}

#[allow(clippy::too_many_arguments, reason = "two products with the parameters of one kernel")]
fn product(
    engine: &Engine,
    a: &Array,
    w: &Array,
    [stride_k, stride_m]: [usize; 2],
    b: Option<&Array>,
    add: bool,
    [n, k, m]: [usize; 3],
    few: bool,
    c: &mut Array,
) {
    let none = Place { at: 0, len: 0, elem: Elem::F32 };
    macro_rules! launch {
        ($kernel:ident, $blocks:expr, $threads:expr) => {
            $kernel {
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
            .launch(engine, Grid { blocks: $blocks, threads: [$threads as u32, 1, 1] })
        };
    }
    if few {
        launch!(LinearRow, [m.div_ceil(row::COLS) as u32, 1, 1], row::THREADS);
    } else {
        let blocks = [n.div_ceil(mma::ROWS) as u32, m.div_ceil(mma::COLS) as u32, 1];
        launch!(LinearMma, blocks, mma::THREADS);
    }
}
