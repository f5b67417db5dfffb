//! The gradient of a matrix W (out, in) of y = x Wᵀ: dW += dyᵀ x.
//!
//! ```text
//! dW += Σ_t dy_t x_tᵀ of piece 0, then of piece 1, …      dy (N, out), x (N, in)
//! ```
//!
//! A piece is at most [`PIECE`] tokens, summed by itself before it joins dW. Where a text is cut
//! into pieces is a matter of the text alone ([`cuts`]), so dW has the same bits however many
//! pieces are there at a time. Cost: 2·N·out·in FLOP.

pub use super::cpu::weight_gradient::PIECE;
use super::rows::Index;
use super::{cpu, cuda};
use crate::tensor::{Tensor, on, shapes};

/// Where the tokens of sequences of these lengths are cut into pieces: from 0 to their sum,
/// ascending. A piece is as many whole sequences as [`PIECE`] tokens hold; one that is longer is
/// cut every [`PIECE`] tokens, and what is left of it begins the next.
pub fn cuts(lengths: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut cuts = vec![0];
    let mut end = 0;
    for length in lengths.into_iter().filter(|&length| length > 0) {
        let start = end;
        end += length;
        let piece = cuts[cuts.len() - 1];
        if piece < start && end - piece > PIECE {
            cuts.push(start);
        }
        let from = cuts[cuts.len() - 1];
        cuts.extend((from + PIECE..end).step_by(PIECE));
    }
    if end > 0 {
        cuts.push(end);
    }
    cuts
}

/// dw (out, in) += dyᵀ x, piece by piece. On a device dy and x may be bf16, and dw is f32.
pub fn accumulate(dy: &Tensor, x: &Tensor, cuts: &Index, dw: &mut Tensor) {
    let ([n, out], [_, inner]) = (dy.dims(), x.dims());
    shapes!("weight gradient": x => [n, inner], dw => [out, inner]);
    let whole = cuts.first() == Some(&0) && cuts.last() == Some(&n);
    let short = cuts.windows(2).all(|p| p[0] <= p[1] && p[1] - p[0] <= PIECE);
    assert!(whole && short, "weight gradient: cuts {:?} of {n} tokens", &cuts[..]);
    on!(dy,
        host T => {
            cpu::weight_gradient::accumulate::<T>(
                dy.get(), x.get(), cuts, [out, inner], dw.get_mut(),
            );
        },
        device e => {
            let (dy, x, dw) = (dy.array(), x.array(), dw.array_mut());
            cuda::weight_gradient::accumulate(e, dy, x, cuts.on_device(), [out, inner], dw);
        },
    );
}
