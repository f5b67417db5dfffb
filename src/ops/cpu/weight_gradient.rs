//! Definition of [`crate::ops::weight_gradient`].

use super::gemm::{View, tiles};
use crate::base::Float;
use rayon::prelude::*;

/// Tokens of a piece, at most.
pub const PIECE: usize = 128;

/// Rows and columns of dW that a task takes.
const TILE: [usize; 2] = [128, 256];

/// dw (out, in) += dyᵀ x of each piece, one after the other; piece p is the tokens
/// `cuts[p]..cuts[p + 1]`.
pub fn accumulate<T: Float>(
    dy: &[T],
    x: &[T],
    cuts: &[usize],
    [out, inner]: [usize; 2],
    dw: &mut [T],
) {
    tiles(dw, inner, TILE).for_each(|mut dw| {
        for piece in cuts.windows(2).filter(|piece| piece[0] < piece[1]) {
            let dy = &dy[piece[0] * out..piece[1] * out];
            let x = &x[piece[0] * inner..piece[1] * inner];
            let left = View { data: &dy[dw.row..], row_stride: out, col_stride: 1 };
            let right = View { data: &x[dw.col..], row_stride: inner, col_stride: 1 };
            dw.product(piece[1] - piece[0], left.t(), right, true);
        }
    });
}
