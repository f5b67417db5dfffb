//! The value search's step for a batch: how searches go on, and how each of them ends.

use std::ops::Range;

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::adam::{self, CALM, EASED, Losses, Rule, Slots, State};
use incise::ops::cuda::adam as cuda;
use incise::tensor::Precision;

use crate::support::budget::{self, Op};
use crate::support::toy::{Draw, Fill, cast};
use crate::support::twin;

/// What becomes of a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nothing: no search begins in it.
    Idle,
    /// Its steps are used up.
    Long,
    /// Its gradient is zero.
    Still,
    /// Its loss is small enough at the second look.
    Enough,
    /// Every token is the likeliest at the second look.
    Said,
    /// … and the KL term is small.
    Calm,
    /// Its loss is not a number at the second look.
    Nan,
    /// … or infinite.
    Infinite,
}
use Fate::{Calm, Enough, Idle, Infinite, Long, Nan, Said, Still};

/// Looks a search may take.
const STEPS: usize = 3;
/// Looks that are taken: one more, which must find nothing to do.
const LOOKS: usize = STEPS + 1;
/// What stands in memory before.
const BEFORE: f64 = 7.0;

/// (case, [P, D], clamp, eases, slots).
type Row = (&'static str, [usize; 2], f64, bool, &'static [Fate]);
const CASES: &[Row] = &[
    ("no slot", [1, 7], 4.0, false, &[]),
    ("one slot, one column", [1, 1], 4.0, false, &[Long]),
    ("every fate", [1, 67], 4.0, false, &[Long, Still, Idle, Enough, Nan, Said, Infinite]),
    ("on the ball", [1, 67], 0.02, false, &[Still, Long, Enough]),
    ("eased", [2, 37], 4.0, true, &[Said, Calm, Long, Nan]),
    ("two parts on the ball", [2, 131], 0.02, true, &[Long, Calm, Said]),
    ("wider than a block", [2, 521], 0.5, false, &[Long, Idle]),
];

struct Case {
    rule: Rule,
    d: usize,
    fates: &'static [Fate],
    t0: Vec<f64>,            // (S, P·D)
    rows: Vec<Range<usize>>, // (S)
    says: Vec<bool>,         // (R)
    weight: Vec<f64>,        // (R)
    looks: Vec<Look>,
}

struct Look {
    loss: Vec<f64>, // (R)
    top: Vec<bool>, // (R)
    g: Vec<f64>,    // (S, P·D)
}

impl Case {
    fn draw(draw: &mut Draw, &(_, [p, d], clamp, eases, fates): &Row) -> Case {
        let single = |x: f64| f64::from(x as f32);
        let rule = Rule {
            lr: 0.125,
            decay: single(0.01),
            clamp: single(clamp),
            nll_factor: 0.75,
            enough: single(0.05),
            eases,
            steps: STEPS,
        };
        // The first row of a slot stays, and one between two slots is nobody's.
        let (mut rows, mut says) = (Vec::new(), Vec::new());
        for _ in fates {
            let from = says.len();
            says.push(false);
            says.extend(vec![true; 1 + draw.below(40)]);
            rows.push(from..says.len());
            says.push(true);
        }
        let weigh = |_: &bool| single(0.3 + draw.uniform()) / 16.0;
        let weight = says.iter().map(weigh).collect();
        let t0 = draw.fill(Fill::Offset(3.0), fates.len() * p * d);
        let mut case = Case { rule, d, fates, t0, rows, says, weight, looks: Vec::new() };
        case.looks = (0..LOOKS).map(|look| case.look(draw, look)).collect();
        case
    }

    fn look(&self, draw: &mut Draw, look: usize) -> Look {
        let r = self.says.len();
        let mut loss: Vec<f64> = (0..r).map(|_| f64::from((2.0 + draw.uniform()) as f32)).collect();
        let mut top: Vec<bool> = (0..r).map(|_| draw.coin()).collect();
        let mut g = draw.normal(self.t0.len());
        let wide = g.len() / self.fates.len().max(1);
        for (slot, rows) in self.rows.iter().enumerate() {
            let (stay, says) = (rows.start, rows.start + 1..rows.end);
            top[says.start] = false;
            if self.fates[slot] == Still {
                g[slot * wide..][..wide].fill(0.0);
            }
            match self.fates[slot] {
                _ if look != 1 => {}
                Enough => loss[rows.clone()].iter_mut().for_each(|l| *l /= 4096.0),
                Said => top[says].fill(true),
                Calm => {
                    top[says].fill(true);
                    loss[stay] /= 4096.0;
                }
                Nan => loss[says.start] = f64::NAN,
                Infinite => loss[stay] = f64::INFINITY,
                _ => {}
            }
        }
        Look { loss, top, g }
    }

    /// What the state and the looks of each slot must be at the end.
    fn ends(&self) -> Vec<f64> {
        let end = |fate: &Fate| match fate {
            Idle => [State::Ended as u8, 0],
            Nan | Infinite => [State::Broken as u8, 1],
            Enough => [State::Ended as u8, 2],
            Calm if self.rule.eases => [State::Ended as u8, 2],
            _ => [State::Ended as u8, STEPS as u8],
        };
        self.fates.iter().flat_map(|f| end(f).map(f64::from)).collect()
    }
}

/// One search, as the formulas say it.
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
        let none = if case.fates[slot] == Idle { BEFORE } else { 0.0 };
        let mut s = Search {
            delta: fill(wide, none),
            m: fill(wide, none),
            v: fill(wide, none),
            factor: T::of(if none == 0.0 { case.rule.nll_factor } else { none }),
            trace: Vec::new(),
        };
        let t0 = cast::<T>(&case.t0[slot * wide..][..wide]);
        let searches = case.fates[slot] != Idle;
        let looks = case.looks.iter().filter(|_| searches);
        for (look, n) in looks.zip(1..) {
            let g = cast::<T>(&look.g[slot * wide..][..wide]);
            if !s.look(case, slot, look, &t0) || n == STEPS {
                break;
            }
            s.step(case, n as i32, &t0, g);
        }
        s.trace.resize(4 * STEPS, T::of(BEFORE));
        s
    }

    /// Whether it goes on.
    fn look(&mut self, case: &Case, slot: usize, look: &Look, t0: &[T]) -> bool {
        let rows = case.rows[slot].clone();
        let sum = |says: bool| -> T {
            let of = rows.clone().filter(|&r| case.says[r] == says);
            of.map(|r| T::of(case.weight[r]) * T::of(look.loss[r])).sum()
        };
        let missed = rows.clone().filter(|&r| case.says[r] && !look.top[r]).count();
        let parts = t0.chunks(case.d).zip(self.delta.chunks(case.d));
        let decay: T =
            parts.map(|(t, d)| T::of(case.rule.decay) * norm(d) / (norm(t) * norm(t))).sum();
        let (nll, kl) = (self.factor * sum(true), sum(false));
        let total = (nll + kl + decay).f64();
        if !total.is_finite() {
            return false;
        }
        self.trace.extend([nll, kl, decay, T::of(missed as f64)]);
        let eased = case.rule.eases && missed == 0;
        self.factor = T::of(case.rule.nll_factor * if eased { EASED } else { 1.0 });
        total >= case.rule.enough && !(eased && kl.f64() <= CALM)
    }

    fn step(&mut self, case: &Case, n: i32, t0: &[T], mut g: Vec<T>) {
        let d = case.d;
        for ((t0, delta), g) in t0.chunks(d).zip(self.delta.chunks(d)).zip(g.chunks_mut(d)) {
            let far = norm(delta);
            for i in (0..d).filter(|_| far.f64() > 0.0) {
                g[i] += T::of(case.rule.decay) * delta[i] / (far * norm(t0) * norm(t0));
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
    const OUTPUTS: &'static [&'static str] = &["delta", "m", "v", "factor", "trace", "state"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let all: Vec<Search<T>> =
            (0..self.fates.len()).map(|slot| Search::run(self, slot)).collect();
        let of = |f: fn(&Search<T>) -> &Vec<T>| all.iter().flat_map(f).copied().collect();
        let factors = all.iter().map(|s| s.factor).collect();
        let [delta, m, v] = [of(|s| &s.delta), of(|s| &s.m), of(|s| &s.v)];
        vec![delta, m, v, factors, of(|s| &s.trace), cast(&self.ends())]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        match precision {
            Precision::F32 => self.defined::<f32>(),
            Precision::F64 => self.defined::<f64>(),
        }
    }
}

impl Case {
    fn defined<T: Float>(&self) -> Vec<Vec<f64>> {
        let (s, n) = (self.fates.len(), self.t0.len());
        let fill = |n: usize| vec![T::of(BEFORE); n];
        let [mut t0, mut delta, mut m, mut v] = [(); 4].map(|()| fill(n));
        let (mut factor, mut trace) = (fill(s), fill(4 * STEPS * s));
        let (mut state, mut taken) = (vec![State::Ended; s], vec![0; s]);
        let mut slots = Slots {
            t0: &mut t0,
            delta: &mut delta,
            m: &mut m,
            v: &mut v,
            state: &mut state,
            taken: &mut taken,
            factor: &mut factor,
            trace: &mut trace,
        };
        for slot in (0..s).filter(|&slot| self.fates[slot] != Idle) {
            let t0 = cast::<T>(&self.t0[slot * n / s..][..n / s]);
            adam::start(&self.rule, slot, &t0, &mut slots);
        }
        let weight = cast::<T>(&self.weight);
        for look in &self.looks {
            let loss = cast::<T>(&look.loss);
            let (rows, says, weight) = (&self.rows[..], &self.says[..], &weight[..]);
            let losses = Losses { rows, says, weight, loss: &loss, top: &look.top };
            adam::step(&self.rule, self.d, &losses, &cast::<T>(&look.g), &mut slots);
        }
        let ends = state.iter().zip(taken).flat_map(|(&s, n)| [f64::from(s as u8), n as f64]);
        let wide = |x: &Vec<T>| x.iter().map(|x| x.f64()).collect::<Vec<f64>>();
        let mut outputs: Vec<_> = [delta, m, v, factor, trace].iter().map(wide).collect();
        outputs.push(ends.collect());
        outputs
    }

    fn kernels(&self, engine: &Engine) -> Vec<Vec<f64>> {
        let (s, n, wide) = (self.fates.len(), self.t0.len(), self.t0.len() / self.fates.len());
        let up = |values: &[f64]| twin::up(engine, Elem::F32, values);
        let ints =
            |values: Vec<i32>| engine.upload(Elem::I32, bytemuck::cast_slice(&values)).unwrap();
        let mut slots = cuda::Slots::new(engine, s, wide, STEPS).unwrap();
        for x in [&mut slots.t0, &mut slots.delta, &mut slots.m, &mut slots.v] {
            *x = up(&vec![BEFORE; n]);
        }
        (slots.factor, slots.trace) = (up(&vec![BEFORE; s]), up(&vec![BEFORE; 4 * STEPS * s]));
        // Last come, first begun.
        let begun: Vec<usize> = (0..s).rev().filter(|&slot| self.fates[slot] != Idle).collect();
        let t0: Vec<f64> =
            begun.iter().flat_map(|slot| self.t0[slot * wide..][..wide].to_vec()).collect();
        let into = ints(begun.iter().map(|&slot| slot as i32).collect());
        cuda::start(engine, &self.rule, &into, &up(&t0), &mut slots);
        let rows =
            ints(self.rows.iter().flat_map(|r| [r.start, r.end].map(|x| x as i32)).collect());
        let target = ints(self.says.iter().map(|&says| if says { 5 } else { -2 }).collect());
        let weight = up(&self.weight);
        let mut scaled = up(&self.weight);
        for look in &self.looks {
            let (loss, g) = (up(&look.loss), up(&look.g));
            let top = ints(look.top.iter().map(|&top| i32::from(top)).collect());
            cuda::weights(engine, [&rows, &target, &weight], &slots, &mut scaled);
            self.check_weights(&twin::down(&slots.factor), &twin::down(&scaled));
            let (rows, target, weight) = (&rows, &target, &weight);
            let losses = cuda::Losses { rows, target, weight, loss: &loss, top: &top };
            cuda::step(engine, &self.rule, self.d, losses, &g, &mut slots);
        }
        let mut outputs: Vec<_> =
            [&slots.delta, &slots.m, &slots.v, &slots.factor, &slots.trace, &slots.state]
                .map(twin::down)
                .to_vec();
        for pair in outputs[5].chunks_mut(2) {
            pair[0] = f64::from(cuda::state(pair[0] as i32) as u8);
        }
        outputs
    }

    /// A row's weight in the gradient: times f where it says, else as it is.
    fn check_weights(&self, factor: &[f64], scaled: &[f64]) {
        for (row, (&got, &weight)) in scaled.iter().zip(&self.weight).enumerate() {
            let slot = self.rows.iter().position(|rows| rows.contains(&row) && self.says[row]);
            let want = slot.map_or(weight as f32, |slot| weight as f32 * factor[slot] as f32);
            assert_eq!(got, f64::from(want), "row {row}");
        }
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::adam::kernels") else { return };
    for row in CASES.iter().filter(|row| !row.4.is_empty()) {
        let name = format!("adam, {}", row.0);
        let inputs = |draw: &mut Draw| Case::draw(draw, row);
        budget::kernel(&name, &engines, &[Elem::F32; 6], inputs, Case::kernels);
    }
}

#[test]
fn cases() {
    for row in CASES {
        budget::hold(&format!("adam, {}", row.0), |draw| Case::draw(draw, row));
    }
}
