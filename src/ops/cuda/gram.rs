//! Launches of `kernels/gram_mma.cu`.

pub use crate::gpu::kernels::gram_mma::FLUSH;
use crate::gpu::kernels::gram_mma::{GramAdd, GramFlush, SIDE, THREADS};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};

/// part (F, F) f32 += KᵀK of k (N, F), N at most [`FLUSH`]; the lower triangle. It reads and writes
/// all of part: some thousand tokens at once are fast.
pub fn add(engine: &Engine, k: &Array, f: usize, part: &mut Array) {
    let n = k.len() / f;
    assert!(n <= FLUSH, "gram: {n} tokens at once lose digits");
    let tiles = f.div_ceil(SIDE) as u32;
    let grid = Grid { blocks: [tiles, tiles, 1], threads: [THREADS as u32, 1, 1] };
    GramAdd { k: k.read(), N: n as i32, F: f as i32, part: part.update() }.launch(engine, grid);
}

/// total (F, F) f64 += part, part = 0; after at most [`FLUSH`] tokens.
pub fn flush(engine: &Engine, f: usize, part: &mut Array, total: &mut Array) {
    GramFlush { F: f as i32, part: part.update(), total: total.update() }
        .launch(engine, Grid::each(f * f, THREADS));
}
