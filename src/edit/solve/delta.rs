//! Changes of a matrix in memory: made of factors, and added up.
//!
//! A change is rounded to f32 once, when it is made. The model in memory gets what the patch
//! says, so what is measured on it is what the patch does.

use faer::Mat;

use crate::linalg::least_squares::{Solution, product};
use crate::model::change::dense;
use crate::ops::update::side_by_side;
use crate::store::{Delta, FactKeys};

/// Whether factors of rank r take less room than the matrix (out, in), and are a change of ours.
pub fn thin(r: usize, [out, inner]: [usize; 2]) -> bool {
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

/// Keys (F, n) as a patch has them.
pub fn pack_keys(k: &Mat<f64>) -> FactKeys {
    FactKeys { values: rows(k), n: k.ncols() }
}

/// The keys of all changes of one matrix of F columns, side by side: `None` where some change has
/// none.
pub fn join_keys<'a>(
    all: impl Iterator<Item = Option<&'a FactKeys>> + Clone,
    f: usize,
) -> Option<FactKeys> {
    let all: Vec<&FactKeys> = all.collect::<Option<_>>()?;
    let values = side_by_side(f, all.iter().map(|keys| (&keys.values[..], keys.n)));
    Some(FactKeys { values, n: all.iter().map(|keys| keys.n).sum() })
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
