//! What the systems of an edit are solved with: the host's factors, or those of the model's device.
//! Both are f64. A device without room leaves them to the host.

use faer::Mat;
use rayon::prelude::*;

use crate::base::{Error, catch_device_error, or_unwind};
use crate::gpu::launch::Elem;
use crate::gpu::{Array, Engine};
use crate::linalg::least_squares::{Rhs, Solver, System, on_host};
use crate::ops::cholesky::{Systems, Triangle};
use crate::ops::cuda::cholesky;
use crate::tensor::Compute;

/// Runs `edit` with what is at hand.
pub fn with_solver<T>(compute: &Compute, edit: impl FnOnce(Solver) -> T) -> T {
    let Some(engine) = compute.engine() else { return edit(&on_host) };
    edit(&|system| match catch_device_error(|| Ok(solve(engine, &system))) {
        Err(Error::DeviceMemory { .. }) => on_host(system),
        x => or_unwind(x),
    })
}

/// X; `None` where the matrix is not positive definite.
fn solve(engine: &Engine, System { a, k, b }: &System) -> Option<Mat<f64>> {
    let f = a.nrows();
    let mut l = rows(engine, a);
    if let Some(k) = k {
        cholesky::add_gram(engine, &mut l, f, &columns(engine, k));
    }
    let (n, mut x) = match b {
        Rhs::Keys(k) => (k.ncols(), columns(engine, k)),
        Rhs::Product(k, r) => {
            let factors = [r, k].map(|m| columns(engine, m));
            (r.nrows(), cholesky::product(engine, [r.nrows(), f], factors.each_ref()))
        }
    };
    let systems = Systems { count: n, down: 1, across: f };
    if cholesky::divide(engine, &mut l, Triangle { n: f, ld: f }, &mut x, systems).is_some() {
        return None;
    }
    let x = numbers(&x);
    // A NaN in A passes comparisons: look at what came out.
    let finite = x.par_iter().all(|x| x.is_finite());
    finite.then(|| Mat::from_fn(f, n, |i, j| x[j * f + i]))
}

/// The lower triangle of A on the device, row by row.
fn rows(engine: &Engine, a: &Mat<f64>) -> Array {
    let f = a.nrows();
    let mut all = vec![0.0; f * f];
    let fill = |(i, row): (usize, &mut [f64])| (0..=i).for_each(|j| row[j] = a[(i, j)]);
    all.par_chunks_mut(f.max(1)).enumerate().for_each(fill);
    or_unwind(engine.upload(Elem::F64, bytemuck::cast_slice(&all)))
}

/// B on the device, column by column.
fn columns(engine: &Engine, b: &Mat<f64>) -> Array {
    let mut all = vec![0.0; b.nrows() * b.ncols()];
    let fill = |(j, column): (usize, &mut [f64])| {
        column.iter_mut().zip(b.col(j).iter()).for_each(|(to, x)| *to = *x);
    };
    all.par_chunks_mut(b.nrows().max(1)).enumerate().for_each(fill);
    or_unwind(engine.upload(Elem::F64, bytemuck::cast_slice(&all)))
}

fn numbers(array: &Array) -> Vec<f64> {
    array.download().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
}
