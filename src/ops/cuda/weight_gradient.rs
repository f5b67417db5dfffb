//! The launch of `kernels/weight_gradient.cu`.

pub use crate::gpu::kernels::weight_gradient::PIECE;
use crate::gpu::kernels::weight_gradient::{SIDE, THREADS, WeightGradient};
use crate::gpu::launch::{Grid, int};
use crate::gpu::{Array, Engine};

/// dw (out, in) f32 += dyᵀ x, piece by piece: `cuts` (pieces + 1) are where they begin and end, at
/// most [`PIECE`] tokens apart.
pub fn accumulate(
    engine: &Engine,
    dy: &Array,
    x: &Array,
    cuts: &Array,
    [out, inner]: [usize; 2],
    dw: &mut Array,
) {
    let blocks = [out.div_ceil(SIDE), inner.div_ceil(SIDE), 1];
    WeightGradient {
        dy: dy.read(),
        x: x.read(),
        cuts: cuts.read(),
        P: int(cuts.len() - 1),
        M: int(out),
        K: int(inner),
        dw: dw.update(),
    }
    .launch(engine, Grid::of(blocks, THREADS));
}
