//! Definition of [`crate::ops::adam`].

use crate::base::Float;
use crate::ops::adam::{BETA, CALM, EASED, EPS, Losses, Rule, Slots, State};

/// Every slot that runs, one after another.
pub fn step<T: Float>(rule: &Rule, d: usize, losses: &Losses<T>, g: &[T], slots: &mut Slots<T>) {
    for slot in 0..slots.state.len() {
        if slots.state[slot] == State::Running {
            slots.state[slot] = look(rule, d, slot, losses, slots);
        }
        if slots.state[slot] == State::Running {
            advance(rule, d, slot, g, slots);
        }
    }
}

/// Zeros, and t₀.
pub fn start<T: Float>(rule: &Rule, slot: usize, t0: &[T], slots: &mut Slots<T>) {
    let own = slot * t0.len()..(slot + 1) * t0.len();
    slots.t0[own.clone()].copy_from_slice(t0);
    for x in [&mut *slots.delta, slots.m, slots.v] {
        x[own.clone()].fill(T::default());
    }
    slots.state[slot] = State::Running;
    slots.taken[slot] = 0;
    slots.factor[slot] = T::of(rule.nll_factor);
}

/// Notes the loss. What the slot is doing from there on.
fn look<T: Float>(
    rule: &Rule,
    d: usize,
    slot: usize,
    losses: &Losses<T>,
    slots: &mut Slots<T>,
) -> State {
    let wide = slots.t0.len() / slots.state.len();
    let (mut nll, mut kl, mut missed) = (T::default(), T::default(), 0);
    for row in losses.rows[slot].clone() {
        let weighed = losses.weight[row] * losses.loss[row];
        if losses.says[row] {
            nll += weighed;
            missed += usize::from(!losses.top[row]);
        } else {
            kl += weighed;
        }
    }
    nll *= slots.factor[slot];
    let own = slot * wide..(slot + 1) * wide;
    let parts = slots.t0[own.clone()].chunks(d).zip(slots.delta[own].chunks(d));
    let decay: T = parts.map(|(t0, delta)| T::of(rule.decay) / dot(t0, t0) * norm(delta)).sum();
    let total = (nll + kl + decay).f64();
    if !total.is_finite() {
        return State::Broken;
    }
    let at = (slot * rule.steps + slots.taken[slot]) * 4;
    slots.trace[at..][..4].copy_from_slice(&[nll, kl, decay, T::of(missed as f64)]);
    slots.taken[slot] += 1;
    let said = rule.eases && missed == 0;
    slots.factor[slot] = T::of(rule.nll_factor * if said { EASED } else { 1.0 });
    let calm = said && kl.f64() <= CALM;
    let ends = total < rule.enough || slots.taken[slot] == rule.steps || calm;
    if ends { State::Ended } else { State::Running }
}

/// Adam's step, and the clamp.
fn advance<T: Float>(rule: &Rule, d: usize, slot: usize, g: &[T], slots: &mut Slots<T>) {
    let wide = g.len() / slots.state.len();
    let [c1, c2] = BETA.map(|b| T::of(1.0 - b.powi(slots.taken[slot] as i32)));
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
