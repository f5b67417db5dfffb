//! Launches of `kernels/embed.cu`.

use crate::gpu::kernels::embed::{EmbedAdd, EmbedFwd, THREADS};
use crate::gpu::launch::{Grid, int};
use crate::gpu::{Array, Engine};

/// x (N, D) from token ids (N) and, where positions are learned, the row of each (N).
pub fn forward(
    engine: &Engine,
    ids: &Array,
    tokens: &Array,
    positions: Option<(&Array, &Array)>,
    x: &mut Array,
) {
    let n = ids.len();
    let len = x.len();
    let grid = Grid::each(len, THREADS);
    let (n, d) = (int(n), int(len / n.max(1)));
    EmbedFwd { ids: ids.read(), w: tokens.read(), N: n, D: d, x: x.write() }.launch(engine, grid);
    if let Some((w, at)) = positions {
        let ids = at.read();
        let w = w.read();
        EmbedAdd { ids, w, N: n, D: d, x: x.update() }.launch(engine, grid);
    }
}
