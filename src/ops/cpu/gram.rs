//! Definition of [`crate::ops::gram`].

use rayon::prelude::*;

use super::gemm::{Tile, View};
use crate::base::Float;

/// Tokens summed in the type of K before they join the f64 totals.
pub const TOKENS: usize = 512;

/// Elements of the packed lower triangle of an F × F matrix.
pub fn packed_len(f: usize) -> usize {
    f * (f + 1) / 2
}

/// Rows of the triangle a task takes.
const ROWS: usize = 128;

/// total += Kᵀ K over the packed lower triangle.
pub fn accumulate<T: Float>(k: &[T], f: usize, total: &mut [f64]) {
    let mut bands = Vec::new();
    let mut rest = total;
    for row in (0..f).step_by(ROWS) {
        let end = (row + ROWS).min(f);
        let (band, more) = rest.split_at_mut((row..end).map(|i| i + 1).sum());
        bands.push((row..end, band));
        rest = more;
    }
    // The last bands are the longest: start with them.
    bands.into_par_iter().rev().for_each_init(Vec::new, |block: &mut Vec<T>, (rows, band)| {
        for k in k.chunks(TOKENS * f) {
            let n = k.len() / f;
            block.clear();
            block.resize(rows.len() * rows.end, T::default());
            let left = View { data: &k[rows.start..], row_stride: f, col_stride: 1 };
            Tile::whole(block, rows.end).product(n, left.t(), View::rows(k, f), false);
            let mut band = &mut *band;
            for (i, products) in rows.clone().zip(block.chunks_exact(rows.end)) {
                let (row, more) = band.split_at_mut(i + 1);
                row.iter_mut().zip(products).for_each(|(t, &p)| *t += p.f64());
                band = more;
            }
        }
    });
}
