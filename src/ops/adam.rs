//! One step of the value search for a batch of facts, each in a slot of its own: its loss from the
//! rows of logits, the rule that ends it, else Adam's step and the clamp.
//!
//! ```text
//! loss   f Σ w loss (rows that say) + Σ w loss (rows that stay) + decay Σ_p ‖δ_p‖/‖t_p‖²
//! g_p   += decay δ_p/(‖δ_p‖ ‖t_p‖²)                                  t = t₀, p one of P parts
//! m      ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²       β = (0.9, 0.999), ε = 1e-8
//! δ      ← δ − lr (m/(1 − β₁ⁿ)) / (√(v/(1 − β₂ⁿ)) + ε),      then ‖δ_p‖ ≤ clamp ‖t_p‖
//! ```
//!
//! t, δ, g, m, v (S, P·D); S slots. Source: Kingma, Ba 2015, arXiv:1412.6980, algorithm 1; Meng et
//! al. 2022, arXiv:2202.05262, eq. 4. The easing is that of Li et al. 2024, arXiv:2308.08742.

use super::loss::Aims;
use super::rows::{self, Index};
use super::{cpu, cuda};
use crate::base::or_unwind;
use crate::gpu::Array;
use crate::tensor::{Compute, Tensor, on, shapes};

/// β₁, β₂ of the moments.
pub const BETA: [f64; 2] = [0.9, 0.999];
/// ε under the fraction.
pub const EPS: f64 = 1e-8;
/// What is left of f once every target token is the likeliest, where a search eases.
pub const EASED: f64 = 0.1;
/// The KL term up to which such a search ends then.
pub const CALM: f64 = 0.01;

/// How all searches of a batch go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Adam's rate.
    pub lr: f64,
    /// Weight of ‖δ‖/‖t₀‖².
    pub decay: f64,
    /// ‖δ‖ ≤ clamp·‖t₀‖.
    pub clamp: f64,
    /// f, before it eases.
    pub nll_factor: f64,
    /// The loss below which a search ends.
    pub enough: f64,
    /// Whether f is [`EASED`] after a step in which every target token was the likeliest, and the
    /// search ends if the KL term is at most [`CALM`] then.
    pub eases: bool,
    /// The looks at the loss after which a search ends.
    pub steps: usize,
}

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Searching.
    Running,
    /// Found δ.
    Ended,
    /// Came to a loss that is not finite; δ is what gave it.
    Broken,
}

/// The slots of a batch.
pub struct Slots {
    /// t₀ (S, P·D).
    pub t0: Tensor,
    /// δ (S, P·D).
    pub delta: Tensor,
    /// First moments (S, P·D).
    pub m: Tensor,
    /// Second moments (S, P·D).
    pub v: Tensor,
    /// f of the next look (S, 1).
    pub factor: Tensor,
    /// What each look saw (S, steps·4): say times f, stay, decay, target tokens missed.
    pub trace: Tensor,
    /// What each is doing, and n, its looks at the loss: as of the last [`Slots::read`].
    pub state: Vec<(State, usize)>,
    on_device: Option<Array>, // (S, 2) i32, where it is known first
}

impl Slots {
    /// No slot yet; δ is `wide`, P·D.
    pub fn new(compute: &Compute, wide: usize, steps: usize) -> Slots {
        let none = |width| Tensor::zeros(compute, &[0, width]);
        Slots {
            t0: none(wide),
            delta: none(wide),
            m: none(wide),
            v: none(wide),
            factor: none(1),
            trace: none(4 * steps),
            state: Vec::new(),
            on_device: None,
        }
    }

    /// Begins searches for t₀ (n, P·D), behind those that are there.
    pub fn begin(&mut self, rule: &Rule, t0: &Tensor) {
        let (n, compute) = (t0.shape()[0], self.t0.compute());
        self.t0.push_rows(&t0.on(&compute));
        self.factor.push_rows(&Tensor::of(&compute, &[n, 1], &vec![rule.nll_factor; n]));
        self.state.resize(self.state.len() + n, (State::Running, 0));
        for x in [&mut self.delta, &mut self.m, &mut self.v, &mut self.trace] {
            x.set_rows(self.state.len());
        }
        self.tell();
    }

    /// Lets all slots go but these.
    pub fn keep(&mut self, slots: &[usize]) {
        let rows = Index::new(&self.t0.compute(), slots);
        let Slots { t0, delta, m, v, factor, trace, .. } = self;
        for x in [t0, delta, m, v, factor, trace] {
            let mut kept = Tensor::zeros(x.compute(), &[slots.len(), x.shape()[1]]);
            rows::gather(x, &rows, &mut kept);
            *x = kept;
        }
        self.state = slots.iter().map(|&slot| self.state[slot]).collect();
        self.tell();
    }

    /// What each is doing, and its looks at the loss so far.
    pub fn read(&mut self) -> &[(State, usize)] {
        if let Some(device) = &self.on_device {
            self.state = cuda::adam::states(device);
        }
        &self.state
    }

    fn tell(&mut self) {
        if let Some(engine) = self.t0.engine() {
            self.on_device = Some(or_unwind(cuda::adam::told(engine, &self.state)));
        }
    }
}

/// One look at every loss, and one step of every δ that goes on; g (S, P·D) is the gradient of the
/// rows' losses, in parts of D. A slot that does not run stays as it is.
pub fn step(rule: &Rule, d: usize, aims: &Aims, g: &Tensor, slots: &mut Slots) {
    let [s, wide] = slots.delta.dims();
    assert!(wide.is_multiple_of(d), "adam: δ holds no whole parts of {d}");
    let looks = 4 * rule.steps;
    shapes!("adam": g => [s, wide], slots.factor => [s, 1], slots.trace => [s, looks]);
    let g = g.on(&slots.delta.compute());
    on!(g,
        host T => {
            let slots = cpu::adam::Slots::<T> {
                t0: slots.t0.get(),
                delta: slots.delta.get_mut(),
                m: slots.m.get_mut(),
                v: slots.v.get_mut(),
                factor: slots.factor.get_mut(),
                trace: slots.trace.get_mut(),
                state: &mut slots.state,
            };
            cpu::adam::step(rule, d, aims, g.get(), slots)
        },
        device e => {
            let slots = cuda::adam::Slots {
                t0: slots.t0.array(),
                delta: slots.delta.array_mut(),
                m: slots.m.array_mut(),
                v: slots.v.array_mut(),
                factor: slots.factor.array_mut(),
                trace: slots.trace.array_mut(),
                state: slots.on_device.as_mut().expect("slots on a device have their states there"),
            };
            cuda::adam::step(e, rule, d, aims.on_device(), g.array(), slots)
        },
    );
}
