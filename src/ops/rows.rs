//! Rows of matrices: read some out (taps), add to some (pushes, the residual).

use super::cpu;
use crate::tensor::{Tensor, on_float, shapes};

/// y (rows.len(), D): row i is row `rows[i]` of x (N, D).
pub fn gather(x: &Tensor, rows: &[usize], y: &mut Tensor) {
    let [_, d] = x.dims();
    shapes!("gather": y => [rows.len(), d]);
    on_float!(x, T => cpu::rows::gather::<T>(x.get(), d, rows, y.get_mut()));
}

/// Row `rows[i]` of x (N, D) += row i of y. Rows may repeat; the order is that of `rows`.
pub fn scatter_add(x: &mut Tensor, rows: &[usize], y: &Tensor) {
    let [_, d] = x.dims();
    shapes!("scatter_add": y => [rows.len(), d]);
    on_float!(y, T => cpu::rows::scatter_add::<T>(x.get_mut(), d, rows, y.get()));
}

/// x += y, of the same shape.
pub fn add(x: &mut Tensor, y: &Tensor) {
    assert_eq!(x.shape(), y.shape(), "add: tensors of two shapes");
    on_float!(y, T => cpu::rows::add::<T>(x.get_mut(), y.get()));
}
