//! Definition of [`crate::ops::adam`].

use crate::base::Float;
use crate::ops::adam::{BETA, CALM, EASED, EPS, Rule, State};
use crate::ops::loss::{Aim, Aims};

/// The slots of a batch, as in [`crate::ops::adam::Slots`].
pub struct Slots<'a, T> {
    /// t₀ (S, P·D).
    pub t0: &'a [T],
    /// δ (S, P·D).
    pub delta: &'a mut [T],
    /// First moments (S, P·D).
    pub m: &'a mut [T],
    /// Second moments (S, P·D).
    pub v: &'a mut [T],
    /// f of the next look (S).
    pub factor: &'a mut [T],
    /// What each look saw (S, steps, 4).
    pub trace: &'a mut [T],
    /// What each is doing, and its looks so far (S).
    pub state: &'a mut [(State, usize)],
}

/// Every slot that runs, one after another.
pub fn step<T: Float>(rule: &Rule, d: usize, aims: &Aims, g: &[T], mut slots: Slots<T>) {
    for slot in 0..slots.state.len() {
        if slots.state[slot].0 == State::Running {
            slots.state[slot] = look(rule, d, slot, aims, &mut slots);
        }
        if slots.state[slot].0 == State::Running {
            advance(rule, d, slot, g, &mut slots);
        }
    }
}

/// Notes the loss. What the slot is doing from there on, and its looks.
fn look<T: Float>(
    rule: &Rule,
    d: usize,
    slot: usize,
    aims: &Aims,
    slots: &mut Slots<T>,
) -> (State, usize) {
    let taken = slots.state[slot].1;
    let wide = slots.t0.len() / slots.state.len();
    let (mut nll, mut kl, mut missed) = (T::default(), T::default(), 0);
    for (aim, said) in aims.of(slot) {
        let loss = T::of(said.loss);
        match aim {
            Aim::Say { weight, .. } => {
                nll += T::of(weight) * loss;
                missed += usize::from(!said.top);
            }
            Aim::Stay { weight, .. } => kl += T::of(weight) * loss,
        }
    }
    nll *= slots.factor[slot];
    let own = slot * wide..(slot + 1) * wide;
    let parts = slots.t0[own.clone()].chunks(d).zip(slots.delta[own].chunks(d));
    let decay: T = parts.map(|(t0, delta)| T::of(rule.decay) / dot(t0, t0) * norm(delta)).sum();
    let total = (nll + kl + decay).f64();
    if !total.is_finite() {
        return (State::Broken, taken);
    }
    let at = (slot * rule.steps + taken) * 4;
    slots.trace[at..][..4].copy_from_slice(&[nll, kl, decay, T::of(missed as f64)]);
    let said = rule.eases && missed == 0;
    slots.factor[slot] = T::of(rule.nll_factor * if said { EASED } else { 1.0 });
    let calm = said && kl.f64() <= CALM;
    let ends = total < rule.enough || taken + 1 == rule.steps || calm;
    (if ends { State::Ended } else { State::Running }, taken + 1)
}

/// Adam's step, and the clamp.
fn advance<T: Float>(rule: &Rule, d: usize, slot: usize, g: &[T], slots: &mut Slots<T>) {
    let wide = g.len() / slots.state.len();
    let [c1, c2] = BETA.map(|b| T::of(1.0 - b.powi(slots.state[slot].1 as i32)));
    let ([b1, b2], [a1, a2]) = (BETA.map(T::of), BETA.map(|b| T::of(1.0 - b)));
    for from in (slot * wide..(slot + 1) * wide).step_by(d) {
        let part = from..from + d;
        let (t0, delta) = (&slots.t0[part.clone()], &mut slots.delta[part.clone()]);
        let (m, v, g) = (&mut slots.m[part.clone()], &mut slots.v[part.clone()], &g[part]);
        let (size, far) = (dot(t0, t0), norm(delta));
        // ∇‖δ‖ = δ/‖δ‖, and nothing pulls at 0.
        let still = far == T::default();
        let pull = if still { far } else { T::of(rule.decay) / size / far };
        for i in 0..d {
            let slope = g[i] + pull * delta[i];
            m[i] = b1 * m[i] + a1 * slope;
            v[i] = b2 * v[i] + a2 * slope * slope;
            delta[i] -= T::of(rule.lr) * (m[i] / c1) / ((v[i] / c2).sqrt() + T::of(EPS));
        }
        let (far, radius) = (norm(delta), T::of(rule.clamp) * size.sqrt());
        if far > radius {
            delta.iter_mut().for_each(|x| *x *= radius / far);
        }
    }
}

fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

fn norm<T: Float>(x: &[T]) -> T {
    dot(x, x).sqrt()
}
