//! Launches of `kernels/embed.cu`.

use crate::gpu::kernels::embed::{EmbedFwd, THREADS};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};

/// x (N, D) from token ids (N) and, where positions are learned, the row of each (N).
pub fn forward(
    engine: &Engine,
    ids: &Array,
    tokens: &Array,
    positions: Option<(&Array, &Array)>,
    x: &mut Array,
) {
    let (n, len) = (ids.len(), x.len());
    let (w, at) = positions.unwrap_or((tokens, ids));
    EmbedFwd {
        ids: ids.read(),
        at: at.read(),
        tokens: tokens.read(),
        positions: w.read(),
        learned: i32::from(positions.is_some()),
        N: n as i32,
        D: (len / n.max(1)) as i32,
        x: x.write(),
    }
    .launch(engine, Grid::each(len, THREADS));
}
