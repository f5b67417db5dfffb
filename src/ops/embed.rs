//! Embedding: `x_i = W_token[id_i] (+ W_position[position_i])`. Moves 2·N·D elements.

use super::{cpu, cuda};
use crate::tensor::{Tensor, Weight, on, shapes};

/// x (N, D) from token ids and, where positions are learned, the row of each position.
pub fn forward(
    ids: &[u32],
    tokens: &Weight,
    positions: Option<(&Weight, &[usize])>,
    x: &mut Tensor,
) {
    let [_, d] = tokens.dims();
    shapes!("embed": x => [ids.len(), d]);
    on!(x.compute(),
        host T => cpu::embed::forward::<T>(ids, tokens, positions, x.get_mut()),
        device e => {
            let ids = cuda::rows::indices(e, ids.iter().map(|&id| id as usize));
            let at = positions.map(|(w, at)| (w.on(e), cuda::rows::indices(e, at.iter().copied())));
            let positions = at.as_ref().map(|(w, at)| (&*w.w, at));
            cuda::embed::forward(e, &ids, &tokens.on(e).w, positions, x.array_mut());
        },
    );
}
