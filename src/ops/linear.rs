//! Products with a frozen matrix: y = x Wᵀ + b and the gradient for its input, dx = dy W.
//!
//! W is (out, in) and read where the checkpoint stores it; b (out). No dW, no db: weights are
//! frozen. On a device x or dy may be bf16, and the result f32 or bf16 too. Cost: 2·N·out·in FLOP
//! each.

use super::{cpu, cuda};
use crate::tensor::{Tensor, Weight, on, shapes};

/// From so many rows on, a row's product does not depend on how many others there are, nor on
/// what they are.
pub const BATCH_INVARIANT_ROWS: usize = cpu::dots::FEW + 1;

/// y (N, out) = x (N, in) Wᵀ + b.
pub fn forward(x: &Tensor, w: &Weight, b: Option<&Tensor>, y: &mut Tensor) {
    let ([n, inner], [out, w_in]) = (x.dims(), w.dims());
    assert_eq!(inner, w_in, "linear: x has another width than W takes");
    shapes!("linear": y => [n, out]);
    on!(x,
        host T => cpu::linear::forward::<T>(x.get(), w, b.map(|b| b.get()), y.get_mut()),
        device e => {
            let w = w.on(e);
            let b = b.map(Tensor::array);
            cuda::linear::forward(e, x.array(), (&w).into(), b, y.array_mut());
        },
    );
}

/// dx (N, in) = dy (N, out) W; added to dx, which is not bf16 then, where `add`.
pub fn backward(dy: &Tensor, w: &Weight, dx: &mut Tensor, add: bool) {
    let ([n, out], [w_out, inner]) = (dy.dims(), w.dims());
    assert_eq!(out, w_out, "linear backward: dy has another width than W gives");
    shapes!("linear backward": dx => [n, inner]);
    on!(dy,
        host T => cpu::linear::backward::<T>(dy.get(), w, dx.get_mut(), add),
        device e => {
            let w = w.on(e);
            cuda::linear::backward(e, dy.array(), (&w).into(), dx.array_mut(), add);
        },
    );
}
