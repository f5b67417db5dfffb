//! The value search's step for a batch: how searches go on, and how each of them ends.

use std::ops::Range;

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::loss::{LossRows, RowLoss, RowResult};
use incise::ops::search_step::{
    self, ANNEALED_NLL, KL_TOLERANCE, SearchRule, SearchSlots, SearchStatus, StopRule,
};
use incise::tensor::{Compute, Precision, Tensor};

use crate::support::budget::{self, Op};
use crate::support::toy::{Draw, Fill, cast};
use crate::support::twin;

/// What becomes of a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Its steps are used up.
    Long,
    /// Its gradient is zero.
    Still,
    /// Its loss is small enough in the second step.
    Small,
    /// Every token is the likeliest in the second step.
    Argmax,
    /// … and the KL term is small.
    SmallKl,
    /// Its loss is not a number in the second step.
    Nan,
    /// … or infinite.
    Infinite,
}
use Fate::{Argmax, Infinite, Long, Nan, Small, SmallKl, Still};

/// Steps a search may take.
const STEPS: usize = 3;
/// Steps that are taken: one more, which must find nothing to do.
const TAKEN: usize = STEPS + 1;

/// (case, [P, D], clamp, whether f is annealed, slots).
type Row = (&'static str, [usize; 2], f64, bool, &'static [Fate]);
const CASES: &[Row] = &[
    ("no slot", [1, 7], 4.0, false, &[]),
    ("one slot, one column", [1, 1], 4.0, false, &[Long]),
    ("every fate", [1, 67], 4.0, false, &[Long, Still, Small, Nan, Argmax, Infinite]),
    ("on the ball", [1, 67], 0.02, false, &[Still, Long, Small]),
    ("annealed", [2, 37], 4.0, true, &[Argmax, SmallKl, Long, Nan]),
    ("two parts on the ball", [2, 131], 0.02, true, &[Long, SmallKl, Argmax]),
    ("wider than a block", [2, 521], 0.5, false, &[Long, Small]),
];

struct Case {
    rule: SearchRule,
    d: usize,
    fates: &'static [Fate],
    t0: Vec<f64>,            // (S, P·D)
    rows: Vec<Range<usize>>, // (S)
    nll: Vec<bool>,          // (R): a cross-entropy, else a KL
    weight: Vec<f64>,        // (R)
    steps: Vec<Step>,
}

/// What a step is given.
struct Step {
    loss: Vec<f64>,       // (R)
    is_argmax: Vec<bool>, // (R)
    g: Vec<f64>,          // (S, P·D)
}

impl Case {
    fn draw(draw: &mut Draw, &(_, [p, d], clamp, anneal_nll, fates): &Row) -> Case {
        let single = |x: f64| f64::from(x as f32);
        let loss_tolerance = single(0.05);
        let rule = SearchRule {
            lr: 0.125,
            weight_decay: single(0.01),
            clamp: single(clamp),
            nll_factor: 0.75,
            stop: StopRule { loss_tolerance, anneal_nll, max_steps: STEPS },
        };
        // The first row of a slot is a KL, and one between two slots belongs to none.
        let (mut rows, mut nll) = (Vec::new(), Vec::new());
        for _ in fates {
            let from = nll.len();
            nll.push(false);
            nll.extend(vec![true; 1 + draw.below(40)]);
            rows.push(from..nll.len());
            nll.push(true);
        }
        let weigh = |_: &bool| single(0.3 + draw.uniform()) / 16.0;
        let weight = nll.iter().map(weigh).collect();
        let t0 = draw.fill(Fill::Offset(3.0), fates.len() * p * d);
        let mut case = Case { rule, d, fates, t0, rows, nll, weight, steps: Vec::new() };
        case.steps = (0..TAKEN).map(|n| case.step(draw, n)).collect();
        case
    }

    fn step(&self, draw: &mut Draw, n: usize) -> Step {
        let r = self.nll.len();
        let mut loss: Vec<f64> = (0..r).map(|_| f64::from((2.0 + draw.uniform()) as f32)).collect();
        let mut is_argmax: Vec<bool> = (0..r).map(|_| draw.coin()).collect();
        let mut g = draw.normal(self.t0.len());
        let wide = g.len() / self.fates.len().max(1);
        for (slot, rows) in self.rows.iter().enumerate() {
            let (kl, nll) = (rows.start, rows.start + 1..rows.end);
            is_argmax[nll.start] = false;
            if self.fates[slot] == Still {
                g[slot * wide..][..wide].fill(0.0);
            }
            match self.fates[slot] {
                _ if n != 1 => {}
                Small => loss[rows.clone()].iter_mut().for_each(|l| *l /= 4096.0),
                Argmax => is_argmax[nll].fill(true),
                SmallKl => {
                    is_argmax[nll].fill(true);
                    loss[kl] /= 4096.0;
                }
                Nan => loss[nll.start] = f64::NAN,
                Infinite => loss[kl] = f64::INFINITY,
                _ => {}
            }
        }
        Step { loss, is_argmax, g }
    }

    /// What each slot must be doing at the end, and the steps it took.
    fn ends(&self) -> Vec<f64> {
        let end = |fate: &Fate| match fate {
            Nan | Infinite => [SearchStatus::Diverged as u8, 1],
            Small => [SearchStatus::Converged as u8, 2],
            SmallKl if self.rule.stop.anneal_nll => [SearchStatus::Converged as u8, 2],
            _ => [SearchStatus::Converged as u8, STEPS as u8],
        };
        self.fates.iter().flat_map(|f| end(f).map(f64::from)).collect()
    }
}

/// One search, by the formulas.
struct Search<T> {
    delta: Vec<T>,
    m: Vec<T>,
    v: Vec<T>,
    factor: T,
    trace: Vec<T>,
}

fn norm<T: Float>(x: &[T]) -> T {
    x.iter().map(|&x| x * x).sum::<T>().sqrt()
}

impl<T: Float> Search<T> {
    fn run(case: &Case, slot: usize) -> Search<T> {
        let wide = case.t0.len() / case.fates.len();
        let fill = |n: usize, x: f64| vec![T::of(x); n];
        let mut s = Search {
            delta: fill(wide, 0.0),
            m: fill(wide, 0.0),
            v: fill(wide, 0.0),
            factor: T::of(case.rule.nll_factor),
            trace: Vec::new(),
        };
        let t0 = cast::<T>(&case.t0[slot * wide..][..wide]);
        for (step, n) in case.steps.iter().zip(1..) {
            let g = cast::<T>(&step.g[slot * wide..][..wide]);
            if !s.goes_on(case, slot, step, &t0) || n == STEPS {
                break;
            }
            s.advance(case, n as i32, &t0, g);
        }
        s.trace.resize(4 * STEPS, T::of(0.0));
        s
    }

    /// Whether it goes on.
    fn goes_on(&mut self, case: &Case, slot: usize, step: &Step, t0: &[T]) -> bool {
        let rows = case.rows[slot].clone();
        let sum = |nll: bool| -> T {
            let of = rows.clone().filter(|&r| case.nll[r] == nll);
            of.map(|r| T::of(case.weight[r]) * T::of(step.loss[r])).sum()
        };
        let missed = rows.clone().filter(|&r| case.nll[r] && !step.is_argmax[r]).count();
        let parts = t0.chunks(case.d).zip(self.delta.chunks(case.d));
        let decay: T =
            parts.map(|(t, d)| T::of(case.rule.weight_decay) * norm(d) / (norm(t) * norm(t))).sum();
        let (nll, kl) = (self.factor * sum(true), sum(false));
        let total = (nll + kl + decay).f64();
        if !total.is_finite() {
            return false;
        }
        self.trace.extend([nll, kl, decay, T::of(missed as f64)]);
        let stop = &case.rule.stop;
        let anneals = stop.anneal_nll && missed == 0;
        self.factor = T::of(case.rule.nll_factor * if anneals { ANNEALED_NLL } else { 1.0 });
        total >= stop.loss_tolerance && !(anneals && kl.f64() <= KL_TOLERANCE)
    }

    fn advance(&mut self, case: &Case, n: i32, t0: &[T], mut g: Vec<T>) {
        let d = case.d;
        for ((t0, delta), g) in t0.chunks(d).zip(self.delta.chunks(d)).zip(g.chunks_mut(d)) {
            let far = norm(delta);
            for i in (0..d).filter(|_| far.f64() > 0.0) {
                g[i] += T::of(case.rule.weight_decay) * delta[i] / (far * norm(t0) * norm(t0));
            }
        }
        let [b1, b2] = [0.9, 0.999];
        for (i, g) in g.into_iter().enumerate() {
            self.m[i] = T::of(b1) * self.m[i] + T::of(1.0 - b1) * g;
            self.v[i] = T::of(b2) * self.v[i] + T::of(1.0 - b2) * (g * g);
            let mean = self.m[i] / T::of(1.0 - b1.powi(n));
            let root = (self.v[i] / T::of(1.0 - b2.powi(n))).sqrt();
            self.delta[i] -= T::of(case.rule.lr) * mean / (root + T::of(1e-8));
        }
        for (t0, delta) in t0.chunks(d).zip(self.delta.chunks_mut(d)) {
            let (far, radius) = (norm(delta), T::of(case.rule.clamp) * norm(t0));
            if far > radius {
                delta.iter_mut().for_each(|x| *x *= radius / far);
            }
        }
    }
}

impl Op for Case {
    const OUTPUTS: &'static [&'static str] = &["delta", "m", "v", "factor", "trace", "status"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let all: Vec<Search<T>> =
            (0..self.fates.len()).map(|slot| Search::run(self, slot)).collect();
        let of = |f: fn(&Search<T>) -> &Vec<T>| all.iter().flat_map(f).copied().collect();
        let factors = all.iter().map(|s| s.factor).collect();
        let [delta, m, v] = [of(|s| &s.delta), of(|s| &s.m), of(|s| &s.v)];
        vec![delta, m, v, factors, of(|s| &s.trace), cast(&self.ends())]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        self.run(&precision.into())
    }
}

impl Case {
    fn losses(&self, compute: &Compute) -> LossRows {
        let row = |(&nll, &weight)| {
            if nll {
                RowLoss::CrossEntropy { target: 5, weight }
            } else {
                RowLoss::Kl { reference: 1, weight }
            }
        };
        let rows = self.nll.iter().zip(&self.weight).map(row).collect();
        LossRows::new(compute, self.rows.clone(), rows)
    }

    /// All slots begun, in two parts.
    fn begun(&self, compute: &Compute) -> SearchSlots {
        let (s, n) = (self.fates.len(), self.t0.len());
        let wide = n / s.max(1);
        let mut slots = SearchSlots::new(compute, wide, STEPS);
        for part in [0..s / 2, s / 2..s] {
            let t0 = &self.t0[part.start * wide..part.end * wide];
            slots.begin(&self.rule, &Tensor::of(compute, &[part.len(), wide], t0));
        }
        slots
    }

    fn take(&self, step: &Step, losses: &mut LossRows, slots: &mut SearchSlots) {
        let result = |(&loss, &is_argmax)| RowResult { loss, is_argmax };
        losses.set_results(step.loss.iter().zip(&step.is_argmax).map(result).collect());
        let g = Tensor::of(slots.delta.compute(), slots.delta.shape(), &step.g);
        search_step::step(&self.rule, self.d, losses, &g, slots);
    }

    fn run(&self, compute: &Compute) -> Vec<Vec<f64>> {
        let (mut slots, mut losses) = (self.begun(compute), self.losses(compute));
        for step in &self.steps {
            losses.scale(&slots.factor);
            self.take(step, &mut losses, &mut slots);
        }
        slots.read();
        outputs(&slots)
    }
}

fn outputs(slots: &SearchSlots) -> Vec<Vec<f64>> {
    let status = |&(status, n): &(SearchStatus, usize)| [f64::from(status as u8), n as f64];
    let SearchSlots { delta, m, v, factor, trace, .. } = slots;
    let mut outputs: Vec<_> = [delta, m, v, factor, trace].map(Tensor::to_f64).to_vec();
    outputs.push(slots.status.iter().flat_map(status).collect());
    outputs
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::search_step::kernels") else { return };
    for row in CASES.iter().filter(|row| !row.4.is_empty()) {
        let name = format!("search step, {}", row.0);
        let inputs = |draw: &mut Draw| Case::draw(draw, row);
        let run = |case: &Case, engine: &Engine| case.run(&engine.clone().into());
        budget::kernel(&name, &engines, &[Elem::F32; 6], inputs, run);
    }
}

/// Slots that are left go on as if none had gone, and new ones as if they were first.
#[test]
fn slots_do_not_see_each_other() {
    let mut computes: Vec<Compute> = vec![Precision::F64.into()];
    computes
        .extend(twin::engine("ops::search_step::slots_do_not_see_each_other").map(Compute::from));
    let row = ("kept", [2, 37], 0.02, false, &[Long, Still, Long, Long][..]);
    let case = Case::draw(&mut Draw::new("search step, kept", false), &row);
    let only = |kept: &[usize]| {
        let wide = case.t0.len() / case.fates.len();
        let part = |x: &[f64]| kept.iter().flat_map(|&s| x[s * wide..][..wide].to_vec()).collect();
        let steps = case.steps.iter().map(|step| Step {
            loss: step.loss.clone(),
            is_argmax: step.is_argmax.clone(),
            g: part(&step.g),
        });
        Case {
            rule: case.rule,
            d: case.d,
            fates: case.fates,
            t0: part(&case.t0),
            rows: kept.iter().map(|&s| case.rows[s].clone()).collect(),
            nll: case.nll.clone(),
            weight: case.weight.clone(),
            steps: steps.collect(),
        }
    };
    for compute in &computes {
        let mut slots = case.begun(compute);
        case.take(&case.steps[0], &mut case.losses(compute), &mut slots);
        let kept = only(&[3, 0]);
        slots.read();
        slots.keep(&[3, 0]);
        kept.take(&kept.steps[1], &mut kept.losses(compute), &mut slots);
        slots.read();
        let mut alone = SearchSlots::new(compute, kept.t0.len() / 2, STEPS);
        alone.begin(&case.rule, &Tensor::of(compute, &[2, kept.t0.len() / 2], &kept.t0));
        for step in &kept.steps[..2] {
            kept.take(step, &mut kept.losses(compute), &mut alone);
        }
        alone.read();
        assert_eq!(outputs(&slots), outputs(&alone), "{compute:?}");
    }
}

#[test]
fn cases() {
    for row in CASES {
        budget::hold(&format!("search step, {}", row.0), |draw| Case::draw(draw, row));
    }
}
