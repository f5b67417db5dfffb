//! One step of Adam on a tensor of parameters.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²       β = (0.9, 0.999), ε = 1e-8
//! x ← x − lr (m/(1 − β₁ⁿ)) / (√(v/(1 − β₂ⁿ)) + ε)          in step n, from 1
//! ```
//!
//! x, g, m, v of one shape. Source: Kingma, Ba 2015, arXiv:1412.6980, algorithm 1.

pub use super::cpu::adam::{BETA, EPS};
use super::{cpu, cuda};
use crate::tensor::{Tensor, on};

/// What Adam knows of the gradients so far.
pub struct AdamMoments {
    /// Mean of g.
    pub m: Tensor,
    /// Mean of g².
    pub v: Tensor,
    /// n, the steps taken.
    pub steps: usize,
}

impl AdamMoments {
    /// Before the first step on x.
    pub fn new(x: &Tensor) -> AdamMoments {
        AdamMoments { m: x.like(x.shape()), v: x.like(x.shape()), steps: 0 }
    }
}

/// Moves x against its gradient g.
pub fn step(lr: f64, g: &Tensor, moments: &mut AdamMoments, x: &mut Tensor) {
    let AdamMoments { m, v, steps } = moments;
    for (tensor, name) in [(g, "g"), (&*m, "m"), (&*v, "v")] {
        assert_eq!(tensor.shape(), x.shape(), "adam: {name} has another shape than x");
    }
    *steps += 1;
    on!(g,
        host T => {
            let update = cpu::adam::Update::<T>::new(lr, *steps);
            cpu::adam::step(&update, g.get(), m.get_mut(), v.get_mut(), x.get_mut());
        },
        device e => {
            let [m, v, x] = [m, v, x].map(Tensor::array_mut);
            cuda::adam::step(e, lr, *steps, g.array(), m, v, x);
        },
    );
}
