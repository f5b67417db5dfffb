//! Definition of [`crate::ops::codebook`].

use rayon::prelude::*;

use crate::base::Float;

/// The first key with the least distance to each row, where it is within the key's radius; else −1.
/// Rows are F wide.
pub fn nearest<T: Float>(
    x: &[T],
    rows: &[usize],
    keys: &[T],
    radii: &[T],
    f: usize,
    chosen: &mut [i32],
) {
    let choose = |row: usize| {
        let query = &x[row * f..][..f];
        let mut best = (0, distance(query, &keys[..f]));
        for (j, key) in keys.chunks_exact(f).enumerate().skip(1) {
            let d = distance(query, key);
            if d < best.1 {
                best = (j, d);
            }
        }
        if best.1 <= radii[best.0] * radii[best.0] { best.0 as i32 } else { -1 }
    };
    chosen.par_iter_mut().zip(rows).for_each(|(chosen, &row)| *chosen = choose(row));
}

/// ‖a − b‖², a sum in [`LANES`] parts.
fn distance<T: Float>(a: &[T], b: &[T]) -> T {
    const LANES: usize = 8;
    let mut lanes = [T::default(); LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (sum, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            let gap = a - b;
            *sum += gap * gap;
        }
    }
    let mut sum = T::default();
    lanes.iter().for_each(|&lane| sum += lane);
    sum
}

/// Row `rows[i]` of y ← row `chosen[of[i]]` of the values, where that is not −1. Rows are D wide.
pub fn replace<T: Float>(
    y: &mut [T],
    rows: &[usize],
    of: &[usize],
    chosen: &[i32],
    values: &[T],
    d: usize,
) {
    for (&row, &of) in rows.iter().zip(of) {
        if let Ok(j) = usize::try_from(chosen[of]) {
            y[row * d..][..d].copy_from_slice(&values[j * d..][..d]);
        }
    }
}
