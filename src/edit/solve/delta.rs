//! Changes of a matrix in memory: made of factors, added up, and added to a model.
//!
//! A change is rounded to f32 once, when it is made. The model in memory gets what the patch
//! says, so what is measured on it is what the patch does.

use faer::Mat;

use crate::base::DType;
use crate::linalg::least_squares::{Solution, product};
use crate::model::Model;
use crate::ops::update::{Stored, Term, Terms, side_by_side};
use crate::store::Delta;
use crate::tensor::Layout;

/// Whether factors of rank r take less room than the matrix (out, in), and are a change of ours.
fn thin(r: usize, [out, inner]: [usize; 2]) -> bool {
    r * (out + inner) < out * inner && r <= out.min(inner)
}

/// Δ = R Xᵀ, or Δ itself, as a patch says it.
pub fn pack(change: &Solution, r: &Mat<f64>) -> Delta {
    match change {
        Solution::Right(x) if thin(x.ncols(), [r.nrows(), x.nrows()]) => {
            Delta::LowRank { left: rows(r), right: rows(x), r: x.ncols() }
        }
        Solution::Right(x) => Delta::Dense(rows(&product(r, x))),
        Solution::Whole(transposed) => {
            Delta::Dense(transposed.col_iter().flat_map(|c| c.iter().map(|&x| x as f32)).collect())
        }
    }
}

/// Row-major, in f32.
fn rows(m: &Mat<f64>) -> Vec<f32> {
    (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)] as f32)).collect()
}

/// The sum of changes of one matrix (out, in).
pub fn sum(deltas: &[Delta], [out, inner]: [usize; 2]) -> Delta {
    let mut columns = 0;
    let mut factors = Vec::new();
    for delta in deltas {
        if let Delta::LowRank { left, right, r } = delta {
            columns += r;
            factors.push((&left[..], &right[..], *r));
        }
    }
    if factors.len() < deltas.len() || !thin(columns, [out, inner]) {
        let mut total = vec![0.0; out * inner];
        for delta in deltas {
            total.iter_mut().zip(dense(delta, [out, inner])).for_each(|(t, d)| *t += d);
        }
        return Delta::Dense(total.into_iter().map(|x: f64| x as f32).collect());
    }
    let left = side_by_side(out, factors.iter().map(|&(left, _, r)| (left, r)));
    let right = side_by_side(inner, factors.iter().map(|&(_, right, r)| (right, r)));
    Delta::LowRank { left, right, r: columns }
}

/// Δ as an operation takes it.
pub fn term(delta: &Delta) -> Term<'_> {
    match delta {
        Delta::LowRank { left, right, r } => Term::LowRank { left, right, r: *r },
        Delta::Dense(delta) => Term::Dense(delta),
    }
}

/// Δ (out, in), row-major.
pub fn dense(delta: &Delta, [out, inner]: [usize; 2]) -> Vec<f64> {
    match delta {
        Delta::Dense(delta) => delta.iter().map(|&x| x.into()).collect(),
        Delta::LowRank { left, right, r } => {
            let of = |m: &[f32], n: usize| Mat::from_fn(n, *r, |i, j| f64::from(m[i * r + j]));
            let transposed = product(&of(right, inner), &of(left, out)); // columns are Δ's rows
            transposed.col_iter().flat_map(|c| c.iter().copied()).collect()
        }
    }
}

/// The model with W + Δ in layer l, rounded to the precision it runs in; and ‖Δ‖ and ‖W‖.
pub fn with_delta(model: &Model, l: usize, delta: &Delta) -> (Model, [f64; 2]) {
    let w = &model.layers[l].mlp().down.w;
    let [out, inner] = w.dims();
    if let (Some(_), Delta::LowRank { .. }) = (model.compute.engine(), delta) {
        let stored = Stored { dtype: DType::F32, layout: Layout::OutIn, out, inner };
        let (w, mut new) = (w.to_dense::<f32>(), vec![0.0f32; out * inner]);
        let terms = Terms::new(&model.compute, stored, vec![term(delta)]);
        let made = bytemuck::cast_slice_mut(&mut new);
        let sums = terms.add(bytemuck::cast_slice(&w), 0..out, made);
        let norms = [sums.wanted.sqrt(), sums.weight.sqrt()];
        return (model.with_down(l, new.into_iter().map(f64::from).collect()), norms);
    }
    let (delta, mut w) = (dense(delta, [out, inner]), w.to_dense::<f64>());
    let norms = [&delta, &w].map(|m| crate::linalg::vector::norm(m));
    w.iter_mut().zip(&delta).for_each(|(w, d)| *w += d);
    (model.with_down(l, w), norms)
}
