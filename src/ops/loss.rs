//! The value search's losses at chosen rows of logits z (R, V), and their gradient into z.
//!
//! ```text
//! p = softmax(z)
//! say    −ln p_y                               dz = p − e_y
//! stay   KL = Σ_v p_v (ln p_v − ln p⁰_v)       dz_v = p_v (ln p_v − ln p⁰_v − KL)
//! ```
//!
//! The direction is KL(now ‖ at first); ln p⁰ comes from the same code at δ = 0, so that the KL
//! is then exactly 0. Source: methods of Meng et al. 2022, arXiv:2202.05262, eq. 4.

use super::{cpu, cuda};
use crate::tensor::{Tensor, on, shapes};

/// What a row of logits is asked for, and the factor of its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// Say token `target`.
    Say {
        /// The token.
        target: u32,
        /// Factor of the gradient.
        weight: f64,
    },
    /// Stay what row `first` of the first log-probabilities says.
    Stay {
        /// Row of ln p⁰.
        first: usize,
        /// Factor of the gradient.
        weight: f64,
    },
}

/// Row i of `logp` (rows.len(), V) = ln softmax of row `rows[i]` of z.
pub fn log_softmax(z: &Tensor, rows: &[usize], logp: &mut Tensor) {
    let [_, v] = z.dims();
    shapes!("log_softmax": logp => [rows.len(), v]);
    on!(z,
        host T => cpu::loss::log_softmax::<T>(z.get(), v, rows, logp.get_mut()),
        device e => {
            let rows = cuda::rows::indices(e, rows.iter().copied());
            cuda::loss::log_softmax(e, z.array(), &rows, v, logp.array_mut());
        },
    );
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Said {
    /// Its loss, without the weight.
    pub loss: f64,
    /// Whether no token is likelier than the target.
    pub top: bool,
}

/// Turns z (R, V) into weight·dz in place and returns the loss of each row.
pub fn gradient(z: &mut Tensor, aims: &[Aim], first: &Tensor) -> Vec<Said> {
    let [r, v] = z.dims();
    assert_eq!(r, aims.len(), "loss: a row without an aim");
    on!(z.compute(),
        host T => cpu::loss::gradient::<T>(z.get_mut(), v, aims, first.get()),
        device e => cuda::loss::said(e, z.array_mut(), v, aims, first.array()),
    )
}
