//! One step of Adam on a tensor of parameters.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²       β = (0.9, 0.999), ε = 1e-8
//! x ← x − lr (m/(1 − β₁ⁿ)) / (√(v/(1 − β₂ⁿ)) + ε)          in step n, from 1
//!
//! weight decay    g ← g + decay x           before all that
//! a bound         x ← c − r, x or c + r     after it, whichever is nearest: |x − c| ≤ r
//! ```
//!
//! x, g, m, v, c of one shape. Source: Kingma, Ba 2015, arXiv:1412.6980, algorithm 1; the decay is
//! that of its L₂ form, as in PyTorch's Adam, and not that of AdamW.

pub use super::cpu::adam::{BETA, EPS};
use super::{cpu, cuda};
use crate::base::Float;
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

/// How a step is taken.
#[derive(Clone, Copy)]
pub struct AdamRule<'a> {
    /// lr.
    pub lr: f64,
    /// Added to the gradient, as a multiple of x.
    pub weight_decay: f64,
    /// c and r, where x is bound.
    pub bound: Option<(&'a Tensor, f64)>,
}

impl AdamRule<'_> {
    /// Without decay or bound.
    pub fn plain(lr: f64) -> AdamRule<'static> {
        AdamRule { lr, weight_decay: 0.0, bound: None }
    }
}

/// Moves x against its gradient g.
pub fn step(rule: &AdamRule, g: &Tensor, moments: &mut AdamMoments, x: &mut Tensor) {
    let AdamMoments { m, v, steps } = moments;
    let AdamRule { lr, weight_decay, bound } = *rule;
    let centre = bound.map_or(g, |(centre, _)| centre);
    for (tensor, name) in [(g, "g"), (&*m, "m"), (&*v, "v"), (centre, "c")] {
        assert_eq!(tensor.shape(), x.shape(), "adam: {name} has another shape than x");
    }
    *steps += 1;
    on!(g,
        host T => {
            let update = cpu::adam::Update::<T>::new(lr, *steps).decaying(weight_decay);
            let bound = bound.map(|(centre, radius)| (centre.get(), T::of(radius)));
            cpu::adam::step(&update, bound, g.get(), m.get_mut(), v.get_mut(), x.get_mut());
        },
        device e => {
            let bound = bound.map(|(centre, radius)| (centre.array(), radius));
            let [m, v, x] = [m, v, x].map(Tensor::array_mut);
            cuda::adam::step(e, [lr, weight_decay], bound, *steps, g.array(), m, v, x);
        },
    );
}
