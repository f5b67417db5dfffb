//! What the systems of an edit are solved with: the host's factors, or those of the model's device.
//! Both are f64. A device without room leaves them to the host.

use faer::{Mat, MatRef};
use rayon::prelude::*;

use crate::base::{Error, fits, rescue};
use crate::gpu::launch::Elem;
use crate::gpu::{Array, Engine};
use crate::linalg::keyspace::Means;
use crate::ops::cholesky::{Systems, Triangle};
use crate::ops::cuda::cholesky;
use crate::tensor::Compute;

/// Runs `edit` with what is at hand.
pub fn with_means<T>(compute: &Compute, edit: impl FnOnce(Means) -> T) -> T {
    let Some(engine) = compute.engine() else { return edit(Means::HOST) };
    let host = Means::HOST;
    let add_gram = |a: &mut Mat<f64>, k: &Mat<f64>| match rescue(|| Ok(gram_on(engine, a, k))) {
        Err(Error::Room { .. }) => (host.add_gram)(a, k),
        sum => *a = fits(sum),
    };
    let solve = |a: Mat<f64>, b: Mat<f64>| match rescue(|| Ok(solve_on(engine, &a, &b))) {
        Err(Error::Room { .. }) => (host.solve)(a, b),
        x => fits(x),
    };
    edit(Means { add_gram: &add_gram, solve: &solve })
}

/// A + KKᵀ, the lower triangle.
fn gram_on(engine: &Engine, a: &Mat<f64>, k: &Mat<f64>) -> Mat<f64> {
    let f = a.nrows();
    let (keys, less) = (columns(engine, k.as_ref()), columns(engine, (k * -1.0).as_ref()));
    let mut sum = rows(engine, a);
    cholesky::add_gram(engine, &mut sum, f, [&less, &keys]);
    let sum = numbers(&sum);
    Mat::from_fn(f, f, |i, j| if j <= i { sum[i * f + j] } else { 0.0 })
}

/// A⁻¹B; `None` where A is not positive definite.
fn solve_on(engine: &Engine, a: &Mat<f64>, b: &Mat<f64>) -> Option<Mat<f64>> {
    let (f, n) = (a.nrows(), b.ncols());
    let of = Triangle { n: f, ld: f };
    let systems = Systems { count: n, down: 1, across: f };
    let (mut l, mut x) = (rows(engine, a), columns(engine, b.as_ref()));
    if cholesky::divide(engine, &mut l, of, &mut x, systems).is_some() {
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
    fits(engine.upload(Elem::F64, bytemuck::cast_slice(&all)))
}

/// B on the device, column by column.
fn columns(engine: &Engine, b: MatRef<f64>) -> Array {
    let all: Vec<f64> = b.col_iter().flat_map(|c| c.iter().copied().collect::<Vec<_>>()).collect();
    fits(engine.upload(Elem::F64, bytemuck::cast_slice(&all)))
}

fn numbers(array: &Array) -> Vec<f64> {
    array.download().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
}
