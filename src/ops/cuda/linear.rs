//! Launches of `kernels/linear_mma.cu` and, for a few rows, `kernels/linear_row.cu`.

use crate::gpu::kernels::linear_mma::{self as mma, LinearMma};
use crate::gpu::kernels::linear_row::{self as row, LinearRow};
use crate::gpu::launch::{Elem, Grid, Place};
use crate::gpu::{Array, Engine};
use crate::tensor::OnDevice;

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

impl<'a> From<&'a OnDevice> for Matrix<'a> {
    fn from(w: &'a OnDevice) -> Matrix<'a> {
        let OnDevice { w, out, inner, row_stride, col_stride } = w;
        let (out, inner, row_stride, col_stride) = (*out, *inner, *row_stride, *col_stride);
        Matrix { w, out, inner, row_stride, col_stride }
    }
}

/// y (N, out), f32 or rounded to the type of x, = x (N, in) Wᵀ + b. A row's bits do not depend on
/// the others, nor, among up to [`FEW`] of them and among more, on how many there are.
pub fn forward(engine: &Engine, x: &Array, w: Matrix, b: Option<&Array>, y: &mut Array) {
    let sizes = [x.len() / w.inner, w.inner, w.out];
    let way = if (1..=FEW).contains(&sizes[0]) { Way::Few } else { Way::Many };
    product(engine, way, x, w.w, [w.col_stride, w.row_stride], b, false, sizes, y);
}

/// dx (N, in), f32 or rounded to the type of dy, = dy (N, out) W; f32 is added to where `add`. A
/// row's bits do not depend on the others.
pub fn backward(engine: &Engine, dy: &Array, w: Matrix, dx: &mut Array, add: bool) {
    let sizes = [dy.len() / w.out, w.out, w.inner];
    product(engine, Way::Many, dy, w.w, [w.row_stride, w.col_stride], None, add, sizes, dx);
}

/// Which kernel.
#[derive(Clone, Copy)]
enum Way {
    /// `linear_row`, which is bound by W whatever it takes of the rows.
    Few,
    /// `linear_mma`.
    Many,
}

#[allow(clippy::too_many_arguments, reason = "two products with the parameters of one kernel")]
fn product(
    engine: &Engine,
    way: Way,
    a: &Array,
    w: &Array,
    [stride_k, stride_m]: [usize; 2],
    b: Option<&Array>,
    add: bool,
    [n, k, m]: [usize; 3],
    c: &mut Array,
) {
    let none = |elem| Place { at: 0, len: 0, elem };
    let narrow = c.elem() != Elem::F32;
    assert!(!(narrow && add), "a product is added to f32");
    let (wide, rounded) = match narrow {
        false => (c.place(), none(a.elem())),
        true => (none(Elem::F32), c.place()),
    };
    macro_rules! launch {
        ($kernel:ident, $blocks:expr, $threads:expr) => {
            $kernel {
                a: a.read(),
                w: w.read(),
                b: b.map_or_else(|| none(Elem::F32).into(), Array::read),
                stride_k: stride_k as i64,
                stride_m: stride_m as i64,
                biased: i32::from(b.is_some()),
                add: i32::from(add),
                narrow: i32::from(narrow),
                N: n as i32,
                K: k as i32,
                M: m as i32,
                c: wide.into(),
                rounded: rounded.into(),
            }
            .launch(engine, Grid { blocks: $blocks, threads: [$threads as u32, 1, 1] })
        };
    }
    match way {
        Way::Few => launch!(LinearRow, [m.div_ceil(row::COLS) as u32, 1, 1], row::THREADS),
        Way::Many => {
            let blocks = [n.div_ceil(mma::ROWS) as u32, m.div_ceil(mma::COLS) as u32, 1];
            launch!(LinearMma, blocks, mma::THREADS);
        }
    }
}
