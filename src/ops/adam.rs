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

use std::ops::Range;

use super::cpu;
use crate::base::Float;

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
    /// Found δ, or empty.
    Ended,
    /// Came to a loss that is not finite; δ is what gave it.
    Broken,
}

/// The losses of a batch's rows of logits, R in all.
pub struct Losses<'a, T> {
    /// Each slot's rows.
    pub rows: &'a [Range<usize>],
    /// Whether a row says its target token; else it stays.
    pub says: &'a [bool],
    /// Its weight in the loss, without f.
    pub weight: &'a [T],
    /// Its loss.
    pub loss: &'a [T],
    /// Whether no token is likelier than its target.
    pub top: &'a [bool],
}

/// The slots of a batch.
pub struct Slots<'a, T> {
    /// t₀ (S, P·D).
    pub t0: &'a mut [T],
    /// δ (S, P·D).
    pub delta: &'a mut [T],
    /// First moments (S, P·D).
    pub m: &'a mut [T],
    /// Second moments (S, P·D).
    pub v: &'a mut [T],
    /// What each is doing (S).
    pub state: &'a mut [State],
    /// n, looks at the loss so far (S).
    pub taken: &'a mut [usize],
    /// f of the next look (S).
    pub factor: &'a mut [T],
    /// What each look saw (S, steps, 4): say times f, stay, decay, target tokens missed.
    pub trace: &'a mut [T],
}

/// One look at every loss, and one step of every δ that goes on; g (S, P·D) is the gradient of the
/// rows' losses. A slot that does not run stays as it is.
pub fn step<T: Float>(rule: &Rule, d: usize, losses: &Losses<T>, g: &[T], slots: &mut Slots<T>) {
    let (s, r) = (slots.state.len(), losses.loss.len());
    assert_eq!(g.len() % (s * d).max(1), 0, "adam: g holds no whole parts of {d}");
    for x in [&slots.t0, &slots.delta, &slots.m, &slots.v] {
        assert_eq!(x.len(), g.len(), "adam: t0, delta, m and v are not as long as g");
    }
    assert_eq!(slots.trace.len(), s * rule.steps * 4, "adam: trace has another number of steps");
    assert_eq!([slots.taken.len(), slots.factor.len(), losses.rows.len()], [s; 3], "adam: slots");
    assert_eq!([losses.says.len(), losses.weight.len(), losses.top.len()], [r; 3], "adam: rows");
    cpu::adam::step(rule, d, losses, g, slots);
}

/// Begins a search for t₀ (P·D) in a slot.
pub fn start<T: Float>(rule: &Rule, slot: usize, t0: &[T], slots: &mut Slots<T>) {
    assert_eq!(t0.len() * slots.state.len(), slots.t0.len(), "adam: t0 does not fit a slot");
    cpu::adam::start(rule, slot, t0, slots);
}
