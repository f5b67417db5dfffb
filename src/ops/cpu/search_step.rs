//! Definition of [`crate::ops::search_step`].

use super::adam::Update;
use crate::base::Float;
use crate::ops::loss::{LossRows, RowLoss};

/// What is left of f after a step in which every target token was the likeliest, where f is
/// annealed.
pub const ANNEALED_NLL: f64 = 0.1;
/// The KL term up to which such a search ends then.
pub const KL_TOLERANCE: f64 = 0.01;

/// How all searches of a batch step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchRule {
    /// Adam's learning rate.
    pub lr: f64,
    /// Weight of ‖δ‖/‖t₀‖².
    pub weight_decay: f64,
    /// ‖δ‖ ≤ clamp·‖t₀‖.
    pub clamp: f64,
    /// f, before it is annealed.
    pub nll_factor: f64,
    /// When they end.
    pub stop: StopRule,
}

/// When a search ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopRule {
    /// Where the loss is below this.
    pub loss_tolerance: f64,
    /// Whether f is [`ANNEALED_NLL`] times itself after a step in which every target token was the
    /// likeliest, and the search ends if the KL term is at most [`KL_TOLERANCE`] then.
    pub anneal_nll: bool,
    /// After this many steps, the last of which does not move δ.
    pub max_steps: usize,
}

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchStatus {
    /// Searching.
    Active,
    /// Ended: δ is found.
    Converged,
    /// The loss is not finite; δ is what gave it.
    Diverged,
}

/// The slots of a batch, as in [`crate::ops::search_step::SearchSlots`].
pub struct HostSearchSlots<'a, T> {
    /// t₀ (S, P·D).
    pub t0: &'a [T],
    /// δ (S, P·D).
    pub delta: &'a mut [T],
    /// First moments (S, P·D).
    pub m: &'a mut [T],
    /// Second moments (S, P·D).
    pub v: &'a mut [T],
    /// f of the next step (S).
    pub factor: &'a mut [T],
    /// The losses of each step (S, steps, 4).
    pub trace: &'a mut [T],
    /// What each is doing, and the steps it took (S).
    pub status: &'a mut [(SearchStatus, usize)],
}

/// Every active slot, one after another.
pub fn step<T: Float>(
    rule: &SearchRule,
    d: usize,
    losses: &LossRows,
    g: &[T],
    mut slots: HostSearchSlots<T>,
) {
    for slot in 0..slots.status.len() {
        if slots.status[slot].0 == SearchStatus::Active {
            slots.status[slot] = record_loss(rule, d, slot, losses, &mut slots);
        }
        if slots.status[slot].0 == SearchStatus::Active {
            move_delta(rule, d, slot, g, &mut slots);
        }
    }
}

/// Records the loss. What the slot is doing from there on, and the steps it took.
fn record_loss<T: Float>(
    rule: &SearchRule,
    d: usize,
    slot: usize,
    losses: &LossRows,
    slots: &mut HostSearchSlots<T>,
) -> (SearchStatus, usize) {
    let (mut nll, mut kl, mut missed) = (T::default(), T::default(), 0);
    for (row, result) in losses.of(slot) {
        let loss = T::of(result.loss);
        match row {
            RowLoss::CrossEntropy { weight, .. } => {
                nll += T::of(weight) * loss;
                missed += usize::from(!result.is_argmax);
            }
            RowLoss::Kl { weight, .. } => kl += T::of(weight) * loss,
        }
    }
    nll *= slots.factor[slot];
    let width = slots.t0.len() / slots.status.len();
    let own = slot * width..(slot + 1) * width;
    let parts = slots.t0[own.clone()].chunks(d).zip(slots.delta[own].chunks(d));
    let weight = T::of(rule.weight_decay);
    let decay: T = parts.map(|(t0, delta)| weight / dot(t0, t0) * norm(delta)).sum();
    let total = (nll + kl + decay).f64();
    let taken = slots.status[slot].1;
    if !total.is_finite() {
        return (SearchStatus::Diverged, taken);
    }
    let stop = &rule.stop;
    let at = (slot * stop.max_steps + taken) * 4;
    slots.trace[at..][..4].copy_from_slice(&[nll, kl, decay, T::of(missed as f64)]);
    let anneals = stop.anneal_nll && missed == 0;
    slots.factor[slot] = T::of(rule.nll_factor * if anneals { ANNEALED_NLL } else { 1.0 });
    let ends = total < stop.loss_tolerance
        || taken + 1 == stop.max_steps
        || (anneals && kl.f64() <= KL_TOLERANCE);
    (if ends { SearchStatus::Converged } else { SearchStatus::Active }, taken + 1)
}

/// Adam's step with the gradient of the decay, and the clamp.
fn move_delta<T: Float>(
    rule: &SearchRule,
    d: usize,
    slot: usize,
    g: &[T],
    slots: &mut HostSearchSlots<T>,
) {
    let adam = Update::<T>::new(rule.lr, slots.status[slot].1);
    let width = g.len() / slots.status.len();
    for from in (slot * width..(slot + 1) * width).step_by(d) {
        let part = from..from + d;
        let t0 = &slots.t0[part.clone()];
        let delta = &mut slots.delta[part.clone()];
        let m = &mut slots.m[part.clone()];
        let v = &mut slots.v[part.clone()];
        let g = &g[part];
        let square = dot(t0, t0);
        // ∇‖δ‖ = δ/‖δ‖, and 0 at 0.
        let length = norm(delta);
        let at_zero = length == T::default();
        let pull = if at_zero { length } else { T::of(rule.weight_decay) / square / length };
        for i in 0..d {
            adam.apply(g[i] + pull * delta[i], &mut m[i], &mut v[i], &mut delta[i]);
        }
        let length = norm(delta);
        let radius = T::of(rule.clamp) * square.sqrt();
        if length > radius {
            delta.iter_mut().for_each(|x| *x *= radius / length);
        }
    }
}

fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

fn norm<T: Float>(x: &[T]) -> T {
    dot(x, x).sqrt()
}
