//! Launches of `kernels/update.cu`.

use crate::gpu::kernels::update::{THREADS, Update};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};

/// Rows of `sums` that a matrix of (rows, cols) needs.
pub fn blocks(rows: usize, cols: usize) -> usize {
    (rows * cols).div_ceil(THREADS)
}

/// now (rows, cols) = w + left rightᵀ, left (rows, R), right (cols, R), rounded once; and the sums
/// of each block (blocks, 4), to be added up in their order: W², change², lost², overflowed.
pub fn low_rank(
    engine: &Engine,
    w: &Array,
    [rows, cols]: [usize; 2],
    [left, right]: [&Array; 2],
    now: &mut Array,
    sums: &mut Array,
) {
    Update {
        left: left.read(),
        right: right.read(),
        R: (left.len() / rows.max(1)) as i32,
        rows: rows as i32,
        cols: cols as i32,
        w: w.read(),
        now: now.write(),
        sums: sums.write(),
    }
    .launch(engine, Grid::line(blocks(rows, cols), THREADS as u32));
}
