//! Rounding a matrix to a grid in the metric of H, row by row: Babai's nearest plane.
//!
//! ```text
//! W' (D, F)  what is wanted      W̃  the result, each element a value of its own grid
//! E = W̃ − W'                     minimise tr(E H Eᵀ) = Σ over rows ‖U eᵀ‖²
//! H (F, F) = UᵀU                 symmetric positive definite, columns by ascending diagonal
//!
//! for column i from the last to the first:
//!     x = w'_i − Σ_{j>i} (U_ij/U_ii) e_j         the element i for which row i of U e is 0
//!     w̃_i = the value of the grid nearest to x,  e_i = w̃_i − w'_i
//! ```
//!
//! What a column loses, the columns after it make good as far as H says they can, so x is where the
//! element lies in the constrained optimum of all columns that are still free. These are the codes
//! of GPTQ, without its inverse: Cholesky of H instead of H⁻¹. What the end of a grid cuts off is a
//! part of e_i like any other.
//!
//! ```text
//! blocks    the sum over columns behind a block of BLOCK is one product: D·F²/2 of the
//!           multiplications; inside a block they are D·F·BLOCK/2
//! loss      ≈ 1/12 Σ_i q_i² U_ii²,  q_i the distance of neighbours on the grid; rows that no end
//!           of a grid stops lose at most 1/4 Σ_i q_i² U_ii²
//! ```
//!
//! Sources: Babai 1986, Combinatorica 6; Frantar, Ashkboos, Hoefler, Alistarh 2023,
//! arXiv:2210.17323 (GPTQ); that the two are one: Chen et al. 2025, arXiv:2507.18553.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef};
use rayon::prelude::*;

use super::{Cholesky, pieces};

/// Columns that are rounded between two products.
const BLOCK: usize = 64;

/// The values that the elements of a matrix may have, by whole numbers: codes.
pub trait CodeGrid: Sync {
    /// The code whose value is nearest to x.
    fn nearest(&self, row: usize, column: usize, x: f64) -> i16;
    /// The value of a code.
    fn value(&self, row: usize, column: usize, code: i16) -> f64;
}

/// A rounded matrix (D, F), row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    /// The codes of W̃.
    pub codes: Vec<i16>,
    /// E = W̃ − W'.
    pub error: Vec<f64>,
}

/// H, factored for rounding.
pub struct NearestPlane {
    order: Vec<usize>, // the columns by ascending diagonal of H
    factor: Cholesky,  // of H in that order: U = Lᵀ
}

impl NearestPlane {
    /// Factors H (F, F), whose lower triangle is read; `None` where H is not positive definite.
    pub fn of(h: &Mat<f64>) -> Option<NearestPlane> {
        let f = h.nrows();
        let mut order: Vec<usize> = (0..f).collect();
        order.sort_by(|&i, &j| h[(i, i)].total_cmp(&h[(j, j)])); // stable: ties by number
        let at = |i: usize, j: usize| {
            let [i, j] = [order[i], order[j]];
            h[(i.max(j), i.min(j))]
        };
        let factor = Cholesky::of(Mat::from_fn(f, f, at))?;
        Some(NearestPlane { order, factor })
    }

    /// The columns in the order of U: the last is rounded first.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// U_ii of column `order()[i]`: what rounding costs it.
    pub fn pivot(&self, i: usize) -> f64 {
        self.factor.lower()[(i, i)]
    }

    /// Rounds W' (D, F), row-major.
    ///
    /// # Panics
    ///
    /// Where W' does not have F columns.
    pub fn round(&self, wanted: &[f64], grid: &dyn CodeGrid) -> Rounded {
        let f = self.order.len();
        let d = wanted.len().checked_div(f).unwrap_or(0);
        assert_eq!(wanted.len(), d * f, "nearest plane: W' has other columns than H");
        let mut codes = vec![0; d * f];
        let mut e = vec![0.0; d * f]; // by rows, their columns in the order of U
        let mut end = f;
        while end > 0 {
            let block = end.saturating_sub(BLOCK)..end;
            let behind = self.behind(block.clone(), &e, d);
            let triangle = self.triangle(block.clone());
            let rows = e.par_chunks_mut(f).zip(codes.par_chunks_mut(f));
            let rows = rows.zip(behind.par_chunks(block.len())).enumerate();
            rows.for_each(|(row, ((e, codes), behind))| {
                let wanted = &wanted[row * f..][..f];
                let n = block.len();
                for i in (0..n).rev() {
                    let column = self.order[block.start + i];
                    let u = &triangle[i * n..][..n];
                    let done = &e[block.start + i + 1..block.end];
                    let known: f64 = u[i + 1..].iter().zip(done).map(|(u, e)| u * e).sum();
                    let x = wanted[column] - (behind[i] + known) / u[i];
                    let code = grid.nearest(row, column, x);
                    codes[column] = code;
                    e[block.start + i] = grid.value(row, column, code) - wanted[column];
                }
            });
            end = block.start;
        }
        let mut error = vec![0.0; d * f];
        let rows = error.par_chunks_mut(f.max(1)).zip(e.par_chunks(f.max(1)));
        rows.for_each(|(to, from)| {
            self.order.iter().zip(from).for_each(|(&column, &e)| to[column] = e);
        });
        Rounded { codes, error }
    }

    /// Σ_j U_ij e_j over the columns j behind a block, for each row and each i of the block.
    fn behind(&self, block: Range<usize>, e: &[f64], d: usize) -> Vec<f64> {
        let f = self.order.len();
        let (n, rest) = (block.len(), f - block.end);
        let mut sums = vec![0.0; d * n];
        if rest > 0 {
            let l = self.factor.lower().submatrix(block.end, block.start, rest, n);
            let e = MatRef::from_column_major_slice(e, f, d).subrows(block.end, rest);
            let to = MatMut::from_column_major_slice_mut(&mut sums, n, d);
            matmul(to, Accum::Replace, l.transpose(), e, 1.0, pieces());
        }
        sums
    }

    /// U of a block's own columns, row by row; what is left of the diagonal is 0.
    fn triangle(&self, block: Range<usize>) -> Vec<f64> {
        let l = self.factor.lower();
        let row = |i: usize| {
            let of = block.clone().map(move |j| if j < i { 0.0 } else { l[(j, i)] });
            of.collect::<Vec<f64>>()
        };
        block.clone().flat_map(row).collect()
    }
}
