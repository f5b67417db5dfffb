//! Launches of `kernels/linear_mma.cu` and, for a few rows, `kernels/linear_row.cu`; or products by
//! cuBLASLt of the parts that `kernels/linear_split.cu` makes.
//!
//! Which one it is depends on whether rows are few, and not on their number beyond that: so a row's
//! bits do not depend on how many others there are.

use super::rows;
use crate::gpu::blaslt::{ALIGN, BlasltSession, Shape};
use crate::gpu::kernels::linear_mma::{self as mma, LinearMma};
use crate::gpu::kernels::linear_row::{self as row, LinearRow};
use crate::gpu::kernels::linear_split::{self as parts, LinearSplit};
use crate::gpu::launch::{DeviceSlice, Elem, Grid, int};
use crate::gpu::{Array, Engine};
use crate::tensor::OnDevice;

/// Rows up to which a forward product has a kernel of its own.
pub const FEW: usize = row::ROWS;

/// W (out, in) on the device, as it is stored.
#[derive(Clone, Copy)]
pub struct DeviceMatrix<'a> {
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

impl<'a> From<&'a OnDevice> for DeviceMatrix<'a> {
    fn from(w: &'a OnDevice) -> DeviceMatrix<'a> {
        let OnDevice { w, out, inner, row_stride, col_stride } = w;
        let out = *out;
        let inner = *inner;
        let row_stride = *row_stride;
        let col_stride = *col_stride;
        DeviceMatrix { w, out, inner, row_stride, col_stride }
    }
}

/// y (N, out), f32 or rounded to the type of x, = x (N, in) Wᵀ + b. A row's bits do not depend on
/// the others, nor, among up to [`FEW`] of them and among more, on how many there are.
pub fn forward(engine: &Engine, x: &Array, w: DeviceMatrix, b: Option<&Array>, y: &mut Array) {
    let sizes = [x.len() / w.inner, w.inner, w.out];
    let way = if (1..=FEW).contains(&sizes[0]) { Way::Few } else { Way::Many };
    product(engine, way, x, w.w, [w.col_stride, w.row_stride], b, false, sizes, y);
}

/// dx (N, in), f32 or rounded to the type of dy, = dy (N, out) W; f32 is added to where `add`. A
/// row's bits do not depend on the others.
pub fn backward(engine: &Engine, dy: &Array, w: DeviceMatrix, dx: &mut Array, add: bool) {
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
    let slices = [a.slice(), w.slice(), c.slice()];
    let bias = b.map(Array::slice);
    if let (Way::Many, Some(lt)) = (way, engine.blaslt())
        && let Some(shape) = library(slices, bias, [k, m], [stride_k, stride_m])
    {
        let hold = engine.hold();
        let mut session = lt.session(&hold);
        // Of two parts the first comes without a bias.
        if session.serves(shape) && session.serves(Shape { biased: false, ..shape }) {
            return by_library(engine, &mut session, shape, slices, bias, add);
        }
    }
    let none = |elem| DeviceSlice { at: 0, len: 0, elem };
    let narrow = c.elem() != Elem::F32;
    assert!(!(narrow && add), "a product is added to f32");
    let (wide, rounded) =
        if narrow { (none(Elem::F32), c.slice()) } else { (c.slice(), none(a.elem())) };
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
                N: int(n),
                K: int(k),
                M: int(m),
                c: wide.into(),
                rounded: rounded.into(),
            }
            .launch(engine, Grid::of($blocks, $threads))
        };
    }
    match way {
        Way::Few => launch!(LinearRow, [m.div_ceil(row::COLS), 1, 1], row::THREADS),
        Way::Many => {
            let blocks = [n.div_ceil(mma::ROWS), m.div_ceil(mma::COLS), 1];
            launch!(LinearMma, blocks, mma::THREADS);
        }
    }
}

/// The product as cuBLASLt takes it; `None` is for our kernels. The library gets what it is fast
/// at: bf16 activations, or f32 ones, which become bf16 parts, by bf16 weights, everything on
/// [`ALIGN`] bytes. Weights in f32 and f16 would have to be split at every use.
pub fn library(
    [a, w, c]: [DeviceSlice; 3],
    b: Option<DeviceSlice>,
    [k, m]: [usize; 2],
    [stride_k, stride_m]: [usize; 2],
) -> Option<Shape> {
    let along_k = stride_k == 1;
    let stride = if along_k { stride_m } else { stride_k };
    let narrow = c.elem == Elem::BF16;
    let types =
        w.elem == Elem::BF16 && matches!((a.elem, narrow), (Elem::F32, false) | (Elem::BF16, _));
    // Rows of a as bf16, of c, and lines of W.
    let wide = |n: usize, elem: Elem| n > 0 && (n * elem.size()).is_multiple_of(ALIGN);
    let lines = wide(k, Elem::BF16) && wide(m, c.elem) && wide(stride, Elem::BF16);
    let mut starts = [Some(a), Some(w), Some(c), b].into_iter().flatten();
    let lies = lines && starts.all(|p| p.at.is_multiple_of(ALIGN as u64));
    let served = types && lies && (along_k || stride_m == 1);
    served.then_some(Shape { k, m, stride, along_k, biased: b.is_some(), narrow })
}

fn by_library(
    engine: &Engine,
    session: &mut BlasltSession,
    shape: Shape,
    [a, w, c]: [DeviceSlice; 3],
    b: Option<DeviceSlice>,
    add: bool,
) {
    if a.elem == Elem::F32 {
        return in_parts(engine, session, shape, [a, w, c], b, add);
    }
    // What is added to bf16 has to be bf16.
    let b = b.map(|b| {
        if !shape.narrow {
            return b;
        }
        let rounded = session.room().part(0, b.len);
        rows::round(engine, b, rounded);
        rounded
    });
    session.multiply(shape, add, [a, w, c], b);
}

/// Splits as many rows as there is room for and multiplies their two parts, the small one first.
fn in_parts(
    engine: &Engine,
    session: &mut BlasltSession,
    shape: Shape,
    [a, w, c]: [DeviceSlice; 3],
    b: Option<DeviceSlice>,
    add: bool,
) {
    let (Shape { k, m, .. }, room) = (shape, session.room());
    let n = a.len / k;
    let most = room.len / (2 * k);
    assert!(most > 0, "linear: a row of {k} numbers");
    for from in (0..n).step_by(most) {
        let rows = most.min(n - from);
        let x = a.part(from * k, rows * k);
        let c = c.part(from * m, rows * m);
        let y = room.part(0, 2 * rows * k);
        LinearSplit { x: x.into(), N: int(x.len), y: y.into() }
            .launch(engine, Grid::each(x.len / parts::NUMBERS, parts::THREADS));
        let [hi, lo] = [0, 1].map(|part| y.part(part * x.len, x.len));
        session.multiply(Shape { biased: false, ..shape }, add, [lo, w, c], None);
        session.multiply(shape, true, [hi, w, c], b);
    }
}
