//! Key second moments: C += Kᵀ K, products in the type of K, totals in f64.
//!
//! K (N, F). The totals are the lower triangle, packed by rows: element (i, j ≤ i) stands at
//! i (i + 1)/2 + j. At most 512 tokens are summed before they join the totals, so the rounding of
//! an f32 sum never grows with the corpus. Cost: N·F² FLOP (the triangle).

use super::cpu;
use crate::tensor::{Tensor, on_float};

/// Tokens summed in the type of K before they join the f64 totals.
pub const TOKENS: usize = 512;

/// Elements of the packed lower triangle of an F × F matrix.
pub fn packed_len(f: usize) -> usize {
    f * (f + 1) / 2
}

/// total += Kᵀ K.
pub fn accumulate(k: &Tensor, total: &mut [f64]) {
    let [_, f] = k.dims();
    assert_eq!(total.len(), packed_len(f), "gram: the totals are not a triangle of F");
    on_float!(k, T => cpu::gram::accumulate::<T>(k.get(), f, total));
}
