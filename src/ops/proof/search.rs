//! Steps of a search: `kernels/adam.cu` and `search_step.cu`.
//!
//! ```text
//! m, v   constants and products rounded                      4 u Σ|terms|
//! x      its quotient: m and v, two corrections, a root, two divisions, a product     ≤ 12 u of
//!        |m| and what it is off, over √v; and u |x|
//! ```
//!
//! t₀ and δ are whole or halves and such, so their squares' sums are exact; a step that is clamped
//! adds what |δ| is off by.

use super::numbers::{U, whole};
use super::trial::{Trial, Verdict};
use crate::gpu::Engine;
use crate::gpu::kernels::search_step::{ACTIVE, CONVERGED, DIVERGED};
use crate::gpu::launch::Elem;
use crate::ops::cpu::adam::{self as definition, BETA, EPS, Update, corrections};
use crate::ops::cpu::loss::{RowLoss, RowResult};
use crate::ops::cuda::adam;
use crate::ops::cuda::loss::DeviceLossRows;
use crate::ops::cuda::search_step::{self, DeviceSearchSlots};
use crate::ops::loss::LossRows;
use crate::ops::search_step::{self as door, SearchRule, SearchSlots, SearchStatus, StopRule};
use crate::tensor::{Compute, Precision, Tensor};

const LR: f64 = 0.5;

/// n numbers in steps of `by`.
fn steps(series: u64, n: usize, most: u64, by: f64) -> Vec<f64> {
    whole(series, n, most).iter().map(|x| x * by).collect()
}

/// How far m, v and x may be off after a step n from g, m, v and x before it, where g is off by
/// `of_g`.
fn bounds(n: usize, g: f64, of_g: f64, m: f64, v: f64, x: f64) -> [f64; 3] {
    let rest = BETA.map(|b| 1.0 - b);
    let of_m = 4.0 * U * (BETA[0] * m.abs() + rest[0] * g.abs()) + rest[0] * of_g;
    let of_v = 5.0 * U * (BETA[1] * v + rest[1] * g * g) + rest[1] * 2.0 * g.abs() * of_g;
    let [now_m, now_v] = [BETA[0] * m + rest[0] * g, BETA[1] * v + rest[1] * g * g];
    let [c1, c2] = corrections(n);
    let root = (now_v / c2).sqrt() + EPS;
    let quotient = LR * (now_m / c1).abs() / root;
    let of_root = if now_v > 0.0 { of_v / now_v } else { 0.0 };
    let moved = quotient * (12.0 * U + of_root) + LR * of_m / c1 / root;
    [of_m, of_v, moved + 2.0 * U * (x.abs() + quotient)]
}

/// `adam`: in the first step and a later one, without decay and bound and with both.
pub fn step(engine: &Engine, _: [Elem; 2]) -> Verdict {
    let n = 600; // more than two blocks have threads
    for (count, decay, radius) in [(1, 0.0, None), (9, 0.0, None), (3, 0.5, Some(0.25))] {
        let mut trial = Trial::new(engine, format!("n {n}, step {count}, decay {decay}"));
        let g = steps(1, n, 100, 1.0 / 64.0);
        let before = [steps(2, n, 100, 0.25), steps(3, n, 9, 0.125), steps(4, n, 9, 0.25)];
        let [x, m, v] = &before;
        let v: Vec<f64> = v.iter().map(|v| v.abs()).collect();
        let [mut want_x, mut want_m, mut want_v] = [x.clone(), m.clone(), v.clone()];
        let update = Update::<f64>::new(LR, count).decaying(decay);
        let centre: Vec<f64> = x.iter().zip(steps(5, n, 1, 0.25)).map(|(x, by)| x + by).collect();
        let bound = radius.map(|radius| (&centre[..], radius));
        definition::step(&update, bound, &g, &mut want_m, &mut want_v, &mut want_x);
        // Halves and quarters, so what the decay adds is exact, and so are the bounds.
        let decayed = |i: usize| g[i] + decay * x[i];
        let bound = |i: usize| bounds(count, decayed(i), 0.0, m[i], v[i], x[i]);
        let gradient = trial.input("g", Elem::F32, &g);
        let centre = trial.input("centre", Elem::F32, &centre);
        let mut got_x = trial.inout("x", Elem::F32, x);
        let mut got_m = trial.inout("m", Elem::F32, m);
        let mut got_v = trial.inout("v", Elem::F32, &v);
        let held = radius.map(|radius| (&centre, radius));
        trial.run("adam", || {
            let [m, v, x] = [&mut got_m, &mut got_v, &mut got_x];
            adam::step(engine, [LR, decay], held, count, &gradient, m, v, x);
        })?;
        trial.within("adam", &got_m, &[n], &want_m, |i| bound(i)[0])?;
        trial.within("adam", &got_v, &[n], &want_v, |i| bound(i)[1])?;
        trial.within("adam", &got_x, &[n], &want_x, |i| bound(i)[2])?;
    }
    Ok(())
}

/// Parts of a slot and their width, more than a block has threads.
const P: usize = 2;
const D: usize = 300;
const WIDTH: usize = P * D;
/// Slots: one that goes on, one that is clamped, one that converges, one that diverges, one that
/// had converged before.
const S: usize = 5;
const MAX_STEPS: usize = 6;
const KERNEL: &str = "search_step";

fn rule() -> SearchRule {
    let stop = StopRule { loss_tolerance: 0.25, anneal_nll: true, max_steps: MAX_STEPS };
    SearchRule { lr: LR, weight_decay: 0.5, clamp: 0.75, nll_factor: 2.0, stop }
}

/// Two cross-entropies and a KL a slot: weights and results.
fn losses() -> (Vec<RowLoss>, Vec<RowResult>) {
    let mut rows = Vec::new();
    let mut results = Vec::new();
    for slot in 0..S {
        let [nll, kl] = match slot {
            2 => [0.0, 0.0],
            3 => [f64::INFINITY, 0.5],
            _ => [1.5 + slot as f64, 0.5],
        };
        let cross_entropy = |weight| RowLoss::CrossEntropy { target: 7, weight };
        rows.extend([cross_entropy(0.25), cross_entropy(0.75)]);
        rows.push(RowLoss::Kl { reference: 0, weight: 0.125 });
        // The slot that is clamped has no token missed, so its factor is annealed.
        let is_argmax = slot == 1;
        results
            .extend([RowResult { loss: nll, is_argmax: true }, RowResult { loss: nll, is_argmax }]);
        results.push(RowResult { loss: kl, is_argmax: false });
    }
    (rows, results)
}

/// t₀, δ, m, v and g of all slots; the second's t₀ is small beside its δ.
fn state() -> [Vec<f64>; 5] {
    let n = S * WIDTH;
    let mut t0 = steps(1, n, 9, 1.0);
    t0[WIDTH..2 * WIDTH].iter_mut().for_each(|t| *t /= 16.0);
    // The third has no δ yet, and its loss no decay.
    let mut delta = steps(2, n, 9, 0.125);
    delta[2 * WIDTH..3 * WIDTH].fill(0.0);
    let v = steps(4, n, 9, 0.25).iter().map(|v| v.abs()).collect();
    [t0, delta, steps(3, n, 9, 0.125), v, steps(5, n, 100, 1.0 / 64.0)]
}

/// `search_step`.
pub fn searched(engine: &Engine, _: [Elem; 2]) -> Verdict {
    let mut trial = Trial::new(engine, format!("S {S}, P {P}, D {D}"));
    let (rule, [t0, delta, m, v, g], (rows, results)) = (rule(), state(), losses());
    let taken = [0, 3, 2, 1, 4];
    let want = defined(&rule, [&t0, &delta, &m, &v, &g], (rows.clone(), &results), taken);

    let kinds = rows.iter().map(|row| match row {
        RowLoss::CrossEntropy { weight, .. } => (7.0, *weight),
        RowLoss::Kl { weight, .. } => (-1.0, *weight),
    });
    let (target, weight): (Vec<f64>, Vec<f64>) = kinds.unzip();
    let loss: Vec<f64> = results.iter().map(|r| r.loss).collect();
    let flags: Vec<f64> = results.iter().map(|r| f64::from(u8::from(r.is_argmax))).collect();
    let groups: Vec<f64> = (0..S).flat_map(|s| [3.0 * s as f64, 3.0 * (s + 1) as f64]).collect();
    let losses = DeviceLossRows {
        groups: trial.input("rows", Elem::I32, &groups),
        target: trial.input("target", Elem::I32, &target),
        weight: trial.input("weight", Elem::F32, &weight),
        scaled: trial.input("scaled", Elem::F32, &[]),
        loss: trial.input("loss", Elem::F32, &loss),
        is_argmax: trial.input("is_argmax", Elem::I32, &flags),
    };
    let t0_there = trial.input("t0", Elem::F32, &t0);
    let gradient = trial.input("g", Elem::F32, &g);
    let [mut delta_there, mut m_there, mut v_there] =
        [("delta", &delta), ("m", &m), ("v", &v)].map(|(n, x)| trial.inout(n, Elem::F32, x));
    let mut factor = trial.inout("factor", Elem::F32, &[2.0; S]);
    let mut trace = trial.inout("trace", Elem::F32, &[-1.0; S * MAX_STEPS * 4]);
    let mut status = trial.inout("status", Elem::I32, &status_numbers(&before(taken)));
    trial.run(KERNEL, || {
        let slots = DeviceSearchSlots {
            t0: &t0_there,
            delta: &mut delta_there,
            m: &mut m_there,
            v: &mut v_there,
            factor: &mut factor,
            trace: &mut trace,
            status: &mut status,
        };
        search_step::step(engine, &rule, D, &losses, &gradient, slots);
    })?;
    trial.equal(KERNEL, &status, &[S, 2], &status_numbers(&want.status))?;
    trial.within(KERNEL, &factor, &[S], &want.factor.to_f64(), |_| 2.0 * U)?;
    // Three terms of a loss and their weights, two norms' roots and quotients; exact but for those.
    let of_trace = want.trace.to_f64();
    trial.within(KERNEL, &trace, &[S, MAX_STEPS, 4], &of_trace, |i| 8.0 * U * of_trace[i].abs())?;
    let bounds = moved(&rule, [&t0, &delta, &m, &v, &g], &want);
    let sizes = [S, P, D];
    trial.within(KERNEL, &m_there, &sizes, &want.m.to_f64(), |i| bounds[i][0])?;
    trial.within(KERNEL, &v_there, &sizes, &want.v.to_f64(), |i| bounds[i][1])?;
    trial.within(KERNEL, &delta_there, &sizes, &want.delta.to_f64(), |i| bounds[i][2])
}

fn before(taken: [usize; S]) -> Vec<(SearchStatus, usize)> {
    let status = |slot| if slot == S - 1 { SearchStatus::Converged } else { SearchStatus::Active };
    (0..S).map(|slot| (status(slot), taken[slot])).collect()
}

fn status_numbers(status: &[(SearchStatus, usize)]) -> Vec<f64> {
    let number = |status| match status {
        SearchStatus::Active => ACTIVE,
        SearchStatus::Converged => CONVERGED,
        SearchStatus::Diverged => DIVERGED,
    };
    status.iter().flat_map(|&(status, n)| [number(status) as f64, n as f64]).collect()
}

/// The slots after the step that the definition takes in f64.
fn defined(
    rule: &SearchRule,
    [t0, delta, m, v, g]: [&[f64]; 5],
    (rows, results): (Vec<RowLoss>, &[RowResult]),
    taken: [usize; S],
) -> SearchSlots {
    let host = Compute::Host(Precision::F64);
    let tensor = |values: &[f64]| Tensor::of(&host, &[S, values.len() / S], values);
    let mut slots = SearchSlots::new(&host, WIDTH, MAX_STEPS);
    slots.begin(rule, &tensor(t0));
    (slots.delta, slots.m, slots.v) = (tensor(delta), tensor(m), tensor(v));
    slots.factor = tensor(&[2.0; S]);
    slots.trace = tensor(&[-1.0; S * MAX_STEPS * 4]);
    slots.status = before(taken);
    let mut losses = LossRows::new(&host, (0..S).map(|s| 3 * s..3 * s + 3).collect(), rows);
    losses.set_results(results.to_vec());
    door::step(rule, D, &losses, &tensor(g), &mut slots);
    slots
}

/// How far m, v and δ of each number may be off.
fn moved(
    rule: &SearchRule,
    [t0, delta, m, v, g]: [&[f64]; 5],
    want: &SearchSlots,
) -> Vec<[f64; 3]> {
    let mut all = Vec::new();
    for from in (0..S * WIDTH).step_by(D) {
        let part = from..from + D;
        let (status, n) = want.status[from / WIDTH];
        if status != SearchStatus::Active {
            all.extend([[0.0; 3]; D]);
            continue;
        }
        let norm = |x: &[f64]| x[part.clone()].iter().map(|x| x * x).sum::<f64>();
        let [square, length] = [norm(t0), norm(delta).sqrt()];
        let pull = if length > 0.0 { rule.weight_decay / square / length } else { 0.0 };
        let each: Vec<[f64; 3]> = part
            .clone()
            .map(|i| {
                let with_pull = g[i] + pull * delta[i];
                let of_g = U * (g[i].abs() + 8.0 * (pull * delta[i]).abs());
                bounds(n, with_pull, of_g, m[i], v[i], delta[i])
            })
            .collect();
        // The clamp: a norm of what was moved, a root, a quotient, a product; and what each is off.
        let after = want.delta.to_f64();
        let radius = rule.clamp * square.sqrt();
        let off: f64 = each.iter().map(|e| e[2] * e[2]).sum::<f64>().sqrt();
        let of_norm = off / radius + 16.0 * U;
        let clamped = |i: usize, e: &[f64; 3]| [e[0], e[1], e[2] + after[i].abs() * of_norm];
        all.extend(part.zip(&each).map(|(i, e)| clamped(i, e)));
    }
    all
}
