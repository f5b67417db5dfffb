//! Rotary positions: each pair (a, b) of a head turns by the angle of its token's position.
//!
//! ```text
//! a' = a cos − b sin      b' = b cos + a sin      backward: the same with −sin
//! ```
//!
//! x (N, heads·E), rotated in place; cos, sin (N, R/2), always from f32 tables, where R ≤ E is how
//! many elements of a head turn. Source: Su et al. 2021, arXiv:2104.09864.

pub use super::cpu::rope::Pairing;
use super::{cpu, cuda};
use crate::tensor::{Tensor, on, shapes};

/// The angles of a batch: cos and sin (N, R/2).
#[derive(Clone, Debug)]
pub struct Angles {
    /// cos(position · frequency).
    pub cos: Tensor,
    /// sin(position · frequency).
    pub sin: Tensor,
    /// Which elements turn together.
    pub pairing: Pairing,
}

/// Rotates every head of x; `back` rotates the other way, which is the gradient.
pub fn rotate(x: &mut Tensor, heads: usize, angles: &Angles, back: bool) {
    let ([n, width], [_, half]) = (x.dims(), angles.cos.dims());
    shapes!("rope": angles.cos => [n, half], angles.sin => [n, half]);
    assert!(2 * half * heads <= width, "rope: more elements turn than a head has");
    on!(x.compute(),
        host T => cpu::rope::rotate::<T>(
            x.get_mut(),
            heads,
            angles.cos.get(),
            angles.sin.get(),
            half,
            angles.pairing,
            back,
        ),
        device e => {
            let cos = angles.cos.array();
            let sin = angles.sin.array();
            let pairing = angles.pairing;
            let angles = cuda::rope::DeviceAngles { cos, sin, half, pairing };
            cuda::rope::rotate(e, x.array_mut(), [heads, width / heads], angles, back);
        },
    );
}
