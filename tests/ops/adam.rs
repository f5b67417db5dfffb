//! The value search's step for a batch: how searches go on, and how each of them ends.

use std::ops::Range;

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::adam::{self, CALM, EASED, Rule, Slots, State};
use incise::ops::loss::{self, Aim, Aims};
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
use Fate::{Calm, Enough, Infinite, Long, Nan, Said, Still};

/// Looks a search may take.
const STEPS: usize = 3;
/// Looks that are taken: one more, which must find nothing to do.
const LOOKS: usize = STEPS + 1;

/// (case, [P, D], clamp, eases, slots).
type Row = (&'static str, [usize; 2], f64, bool, &'static [Fate]);
const CASES: &[Row] = &[
    ("no slot", [1, 7], 4.0, false, &[]),
    ("one slot, one column", [1, 1], 4.0, false, &[Long]),
    ("every fate", [1, 67], 4.0, false, &[Long, Still, Enough, Nan, Said, Infinite]),
    ("on the ball", [1, 67], 0.02, false, &[Still, Long, Enough]),
    ("eased", [2, 37], 4.0, true, &[Said, Calm, Long, Nan]),
    ("two parts on the ball", [2, 131], 0.02, true, &[Long, Calm, Said]),
    ("wider than a block", [2, 521], 0.5, false, &[Long, Enough]),
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
        let mut s = Search {
            delta: fill(wide, 0.0),
            m: fill(wide, 0.0),
            v: fill(wide, 0.0),
            factor: T::of(case.rule.nll_factor),
            trace: Vec::new(),
        };
        let t0 = cast::<T>(&case.t0[slot * wide..][..wide]);
        for (look, n) in case.looks.iter().zip(1..) {
            let g = cast::<T>(&look.g[slot * wide..][..wide]);
            if !s.look(case, slot, look, &t0) || n == STEPS {
                break;
            }
            s.step(case, n as i32, &t0, g);
        }
        s.trace.resize(4 * STEPS, T::of(0.0));
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
        self.run(&precision.into())
    }
}

impl Case {
    fn aims(&self, compute: &Compute) -> Aims {
        let aim = |(&says, &weight)| match says {
            true => Aim::Say { target: 5, weight },
            false => Aim::Stay { first: 1, weight },
        };
        let aims = self.says.iter().zip(&self.weight).map(aim).collect();
        Aims::new(compute, self.rows.clone(), aims)
    }

    /// All slots begun, in two parts.
    fn begun(&self, compute: &Compute) -> Slots {
        let (s, n) = (self.fates.len(), self.t0.len());
        let wide = n / s.max(1);
        let mut slots = Slots::new(compute, wide, STEPS);
        for part in [0..s / 2, s / 2..s] {
            let t0 = &self.t0[part.start * wide..part.end * wide];
            slots.begin(&self.rule, &Tensor::of(compute, &[part.len(), wide], t0));
        }
        slots
    }

    fn look_at(&self, look: &Look, aims: &mut Aims, slots: &mut Slots) {
        let said = |(&loss, &top)| loss::Said { loss, top };
        aims.tell(look.loss.iter().zip(&look.top).map(said).collect());
        let g = Tensor::of(slots.delta.compute(), slots.delta.shape(), &look.g);
        adam::step(&self.rule, self.d, aims, &g, slots);
    }

    fn run(&self, compute: &Compute) -> Vec<Vec<f64>> {
        let (mut slots, mut aims) = (self.begun(compute), self.aims(compute));
        for look in &self.looks {
            aims.weigh(&slots.factor);
            self.look_at(look, &mut aims, &mut slots);
        }
        slots.read();
        outputs(&slots)
    }
}

fn outputs(slots: &Slots) -> Vec<Vec<f64>> {
    let state = |&(state, n): &(State, usize)| [f64::from(state as u8), n as f64];
    let Slots { delta, m, v, factor, trace, .. } = slots;
    let mut outputs: Vec<_> = [delta, m, v, factor, trace].map(Tensor::to_f64).to_vec();
    outputs.push(slots.state.iter().flat_map(state).collect());
    outputs
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::adam::kernels") else { return };
    for row in CASES.iter().filter(|row| !row.4.is_empty()) {
        let name = format!("adam, {}", row.0);
        let inputs = |draw: &mut Draw| Case::draw(draw, row);
        let run = |case: &Case, engine: &Engine| case.run(&engine.clone().into());
        budget::kernel(&name, &engines, &[Elem::F32; 6], inputs, run);
    }
}

/// A row's weight in the gradient: times f where it says, else as it is.
#[test]
fn rows_that_say_are_weighed() {
    let mut computes: Vec<Compute> = vec![Precision::F32.into()];
    computes.extend(twin::engine("ops::adam::rows_that_say_are_weighed").map(Compute::from));
    for compute in &computes {
        let (v, factor) = (7, [0.75, 0.5]);
        let aims = vec![
            Aim::Stay { first: 0, weight: 0.25 },
            Aim::Say { target: 3, weight: 0.5 },
            Aim::Say { target: 2, weight: 1.0 },
            Aim::Say { target: 0, weight: 2.0 },
        ];
        let of = |aims: Vec<Aim>, factor: Option<&[f64; 2]>| {
            let mut aims = Aims::new(compute, vec![0..2, 2..3], aims);
            if let Some(factor) = factor {
                aims.weigh(&Tensor::of(compute, &[2, 1], factor));
            }
            let z: Vec<f64> = (0..4 * v).map(|i| (i % 5) as f64).collect();
            let (mut z, first) =
                (Tensor::of(compute, &[4, v], &z), Tensor::zeros(compute, &[1, v]));
            loss::gradient(&mut z, &mut aims, 0..4, &first);
            z.to_f64()
        };
        let mut weighed = aims.clone();
        weighed[1] = Aim::Say { target: 3, weight: 0.5 * factor[0] };
        weighed[2] = Aim::Say { target: 2, weight: factor[1] };
        assert_eq!(of(aims, Some(&factor)), of(weighed, None), "{compute:?}");
    }
}

/// Those that stay go on as if nobody had left, and those that come as if they were first.
#[test]
fn slots_do_not_see_each_other() {
    let mut computes: Vec<Compute> = vec![Precision::F64.into()];
    computes.extend(twin::engine("ops::adam::slots_do_not_see_each_other").map(Compute::from));
    let row = ("kept", [2, 37], 0.02, false, &[Long, Still, Long, Long][..]);
    let case = Case::draw(&mut Draw::new("adam, kept", false), &row);
    let only = |kept: &[usize]| {
        let wide = case.t0.len() / case.fates.len();
        let part = |x: &[f64]| kept.iter().flat_map(|&s| x[s * wide..][..wide].to_vec()).collect();
        let looks = case.looks.iter().map(|look| Look {
            loss: look.loss.clone(),
            top: look.top.clone(),
            g: part(&look.g),
        });
        Case {
            rule: case.rule,
            d: case.d,
            fates: case.fates,
            t0: part(&case.t0),
            rows: kept.iter().map(|&s| case.rows[s].clone()).collect(),
            says: case.says.clone(),
            weight: case.weight.clone(),
            looks: looks.collect(),
        }
    };
    for compute in &computes {
        let mut slots = case.begun(compute);
        case.look_at(&case.looks[0], &mut case.aims(compute), &mut slots);
        let kept = only(&[3, 0]);
        slots.read();
        slots.keep(&[3, 0]);
        kept.look_at(&kept.looks[1], &mut kept.aims(compute), &mut slots);
        slots.read();
        let mut alone = Slots::new(compute, kept.t0.len() / 2, STEPS);
        alone.begin(&case.rule, &Tensor::of(compute, &[2, kept.t0.len() / 2], &kept.t0));
        for look in &kept.looks[..2] {
            kept.look_at(look, &mut kept.aims(compute), &mut alone);
        }
        alone.read();
        assert_eq!(outputs(&slots), outputs(&alone), "{compute:?}");
    }
}

#[test]
fn cases() {
    for row in CASES {
        budget::hold(&format!("adam, {}", row.0), |draw| Case::draw(draw, row));
    }
}
