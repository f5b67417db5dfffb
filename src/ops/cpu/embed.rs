//! Definition of [`crate::ops::embed`].

use rayon::prelude::*;

use crate::base::Float;
use crate::tensor::Weight;

/// x from token rows and position rows.
pub fn forward<T: Float>(
    ids: &[u32],
    tokens: &Weight,
    positions: Option<(&Weight, &[usize])>,
    x: &mut [T],
) {
    let [_, d] = tokens.dims();
    x.par_chunks_mut(d).enumerate().for_each_init(Vec::new, |row, (i, x)| {
        tokens.row(ids[i] as usize, x);
        if let Some((w, at)) = positions {
            row.resize(d, T::default());
            w.row(at[i], row);
            x.iter_mut().zip(row.iter()).for_each(|(x, &p)| *x += p);
        }
    });
}
