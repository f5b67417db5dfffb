//! Rows of matrices: read some out (taps), add to some (pushes, the residual), round some.

use std::ops::{Deref, Range};

use super::{cpu, cuda};
use crate::base::Float;
use crate::gpu::Array;
use crate::tensor::{Compute, Tensor, on};

/// Numbers of rows, where a computation runs.
#[derive(Debug, Default)]
pub struct Index {
    rows: Vec<usize>,
    device: Option<Array>, // (rows) i32
}

impl Index {
    /// These rows.
    pub fn new(compute: &Compute, rows: impl Into<Vec<usize>>) -> Index {
        let rows = rows.into();
        let device = compute.engine().map(|e| cuda::rows::indices(e, rows.iter().copied()));
        Index { rows, device }
    }

    pub(super) fn on_device(&self) -> &Array {
        self.device.as_ref().expect("an index of the tensor's device")
    }
}

impl Deref for Index {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.rows
    }
}

/// y (rows.len(), D): row i is row `rows[i]` of x (N, D).
pub fn gather(x: &Tensor, rows: &Index, y: &mut Tensor) {
    assert_eq!(x.shape()[1], y.shape()[1], "gather: rows of another width");
    gather_part(x, rows, 0, y);
}

/// y (rows.len(), D): row i is columns `from..from + D` of row `rows[i]` of x (N, P·D).
pub fn gather_part(x: &Tensor, rows: &Index, from: usize, y: &mut Tensor) {
    let ([_, wide], [n, d]) = (x.dims(), y.dims());
    assert!(n == rows.len() && from + d <= wide, "gather: {n} rows of {d} from {wide}");
    on!(x,
        host T => cpu::rows::gather::<T>(x.get(), [wide, from, d], rows, y.get_mut()),
        device e => {
            cuda::rows::gather(e, x.array(), [wide, from, d], rows.on_device(), y.array_mut())
        },
    );
}

/// Row `rows[i]` of x (N, D) += row i of y. Rows may repeat; the order is that of `rows`.
pub fn scatter_add(x: &mut Tensor, rows: &Index, y: &Tensor) {
    assert_eq!(x.shape()[1], y.shape()[1], "scatter_add: rows of another width");
    scatter_add_part(x, rows, 0, y);
}

/// Columns `from..from + D` of row `rows[i]` of x (N, P·D) += row i of y (rows.len(), D).
pub fn scatter_add_part(x: &mut Tensor, rows: &Index, from: usize, y: &Tensor) {
    let ([_, wide], [n, d]) = (x.dims(), y.dims());
    assert!(n == rows.len() && from + d <= wide, "scatter_add: {n} rows of {d} into {wide}");
    on!(y,
        host T => cpu::rows::scatter_add::<T>(x.get_mut(), [wide, from, d], rows, y.get()),
        device e => {
            cuda::rows::scatter_add(e, x.array_mut(), [wide, from, d], rows.on_device(), y.array())
        },
    );
}

/// Rows of y (M, D) from `to` on become rows of x (N, D), rounded to the type of y.
pub fn put(x: &Tensor, rows: Range<usize>, y: &mut Tensor, to: usize) {
    let ([_, d], [m, width]) = (x.dims(), y.dims());
    assert!(d == width && to + rows.len() <= m, "put: {rows:?} of {d} from {to} of {m}, {width}");
    let from = rows.start * d..rows.end * d;
    let to = to * d;
    on!(x,
        host T => y.get_mut::<T>()[to..][..from.len()].copy_from_slice(&x.get()[from]),
        device e => cuda::rows::put(e, x.array(), from, y.array_mut(), to),
    );
}

/// x += y, of the same shape.
pub fn add(x: &mut Tensor, y: &Tensor) {
    assert_eq!(x.shape(), y.shape(), "add: tensors of two shapes");
    on!(y,
        host T => cpu::rows::add::<T>(x.get_mut(), y.get()),
        device e => cuda::rows::add(e, x.array_mut(), y.array()),
    );
}

/// x *= a.
pub fn scale(x: &mut Tensor, a: f64) {
    on!(x.compute(),
        host T => cpu::rows::scale::<T>(x.get_mut(), T::of(a)),
        device e => cuda::rows::scale(e, x.array_mut(), a as f32),
    );
}

/// x ← c tanh(x / c), element by element: no value's size exceeds c.
pub fn cap(x: &mut Tensor, c: f64) {
    on!(x.compute(),
        host T => cpu::rows::cap::<T>(x.get_mut(), T::of(c)),
        device e => cuda::rows::cap(e, x.array_mut(), c as f32),
    );
}
