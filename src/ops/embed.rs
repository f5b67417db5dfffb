//! Embedding: `x_i = W_token[id_i] (+ W_position[position_i])`. Moves 2·N·D elements.

use super::cpu;
use crate::tensor::{Tensor, Weight, on_float, shapes};

/// x (N, D) from token ids and, where positions are learned, the row of each position.
pub fn forward(
    ids: &[u32],
    tokens: &Weight,
    positions: Option<(&Weight, &[usize])>,
    x: &mut Tensor,
) {
    let [_, d] = tokens.dims();
    shapes!("embed": x => [ids.len(), d]);
    on_float!(x, T => cpu::embed::forward::<T>(ids, tokens, positions, x.get_mut()));
}
