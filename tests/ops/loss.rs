//! The losses of the value search at rows of logits, and their gradient.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::cuda::loss as cuda;
use incise::ops::loss::{self, Aim, Aims};
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, U64, along, inner};
use crate::support::toy::{Draw, Fill, cast, exp, ln};
use crate::support::twin;

/// (case, [R, V], logits).
const CASES: &[(&str, [usize; 2], Fill)] = &[
    ("no row", [0, 7], Fill::Normal),
    ("one row, one column", [1, 1], Fill::Normal),
    ("not a multiple of anything", [7, 129], Fill::Normal),
    ("GPT-2 small", [3, 50_257], Fill::Normal),
    ("large mean, small spread", [4, 517], Fill::Offset(1e3)),
    ("one token takes all", [5, 67], Fill::Wide(1e2)),
];

struct Case {
    v: usize,
    z: Vec<f64>,     // (R, V)
    first: Vec<f64>, // (2, V): logits at δ = 0
    aims: Vec<Aim>,
}

impl Case {
    fn draw(draw: &mut Draw, [r, v]: [usize; 2], fill: Fill) -> Case {
        // Rows that say and rows that stay, in no order; two aims may share a row of ln p⁰.
        let aim = |_| match draw.coin() {
            true => Aim::Say { target: draw.below(v) as u32, weight: 0.3 + draw.uniform() },
            false => Aim::Stay { first: draw.below(2), weight: 0.3 + draw.uniform() },
        };
        let aims = (0..r).map(aim).collect();
        let z = (0..r).flat_map(|_| draw.fill(fill, v)).collect();
        Case { v, z, first: draw.normal(2 * v), aims }
    }

    /// Losses without their weights, and weight·dz.
    fn gradient(&self, precision: Precision, z: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let tensor = |z: &[f64]| Tensor::of(precision, &[z.len() / self.v, self.v], z);
        let mut first = tensor(&vec![f64::NAN; self.first.len()]);
        loss::log_softmax(&tensor(&self.first), &[0, 1], &mut first);
        let mut z = tensor(z);
        (losses(&mut z, &self.aims, &first), z.to_f64())
    }

    fn weight(aim: &Aim) -> f64 {
        match *aim {
            Aim::Say { weight, .. } | Aim::Stay { weight, .. } => weight,
        }
    }
}

/// Losses; z becomes their weighed gradient.
fn losses(z: &mut Tensor, aims: &[Aim], first: &Tensor) -> Vec<f64> {
    let all = 0..aims.len();
    let mut aims = Aims::new(&z.compute(), vec![all.clone()], aims.to_vec());
    loss::gradient(z, &mut aims, all, first);
    aims.of(0).map(|(_, said)| said.loss).collect()
}

fn log_softmax<T: Float>(z: &[T]) -> Vec<T> {
    let top = z.iter().fold(z[0], |a, &z| a.max(z));
    let lse = top + ln(z.iter().map(|&z| exp(z - top)).sum::<T>());
    z.iter().map(|&z| z - lse).collect()
}

impl Op for Case {
    const OUTPUTS: &'static [&'static str] = &["say", "stay", "d say", "d stay", "log-softmax"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let v = self.v;
        let (z, first) = (cast::<T>(&self.z), cast::<T>(&self.first));
        let mut all = vec![Vec::new(); 5];
        for (z, aim) in z.chunks(v).zip(&self.aims) {
            let logp = log_softmax(z);
            let p: Vec<T> = logp.iter().map(|&l| exp(l)).collect();
            let w = T::of(Case::weight(aim));
            match *aim {
                Aim::Say { target, .. } => {
                    let y = target as usize;
                    all[0].push(-logp[y]);
                    let hot = |i| T::of(if i == y { 1.0 } else { 0.0 });
                    all[2].extend((0..v).map(|i| w * (p[i] - hot(i))));
                }
                Aim::Stay { first: row, .. } => {
                    let first = log_softmax(&first[row * v..][..v]);
                    let gap: Vec<T> = (0..v).map(|i| logp[i] - first[i]).collect();
                    let kl: T = (0..v).map(|i| p[i] * gap[i]).sum();
                    all[1].push(kl);
                    all[3].extend((0..v).map(|i| w * p[i] * (gap[i] - kl)));
                }
            }
            all[4].extend(logp);
        }
        all
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let (losses, dz) = self.gradient(precision, &self.z);
        let mut all = vec![Vec::new(); 5];
        for ((loss, dz), aim) in losses.iter().zip(dz.chunks(self.v)).zip(&self.aims) {
            let stay = usize::from(matches!(aim, Aim::Stay { .. }));
            all[stay].push(*loss);
            all[2 + stay].extend(dz);
        }
        // The rows backwards and back again.
        let backwards: Vec<usize> = (0..self.aims.len()).rev().collect();
        let z = Tensor::of(precision, &[self.aims.len(), self.v], &self.z);
        let mut logp = Tensor::of(precision, z.shape(), &vec![f64::NAN; z.len()]);
        loss::log_softmax(&z, &backwards, &mut logp);
        all[4].extend(backwards.iter().flat_map(|&row| logp.row_f64(row)));
        all
    }
}

impl Case {
    fn kernels(&self, engine: &Engine) -> Vec<Vec<f64>> {
        let (r, v) = (self.aims.len(), self.v);
        let single = |x: &[f64]| twin::up(engine, Elem::F32, x);
        let index = |x: Vec<f64>| twin::up(engine, Elem::I32, &x);
        let room = |n: usize| engine.array(Elem::F32, n).unwrap();
        let (mut first, mut logp) = (room(2 * v), room(r * v));
        let rows = |n: usize| index((0..n).map(|row| row as f64).collect());
        cuda::log_softmax(engine, &single(&self.first), &rows(2), v, &mut first);
        let mut z = single(&self.z);
        cuda::log_softmax(engine, &z, &rows(r), v, &mut logp);
        let mut aims = cuda::Aims::new(engine, &[], &self.aims).unwrap();
        // Two pieces, where there are two rows.
        for rows in [0..r / 2, r / 2..r] {
            let mut piece = single(&self.z[rows.start * v..rows.end * v]);
            cuda::gradient(engine, &mut piece, v, &mut aims, rows.clone(), &first);
            z.copy(rows.start * v, &piece, 0..rows.len() * v);
        }
        let (losses, dz) = (twin::down(&aims.loss), twin::down(&z));
        let mut all = vec![Vec::new(); 5];
        for ((loss, dz), aim) in losses.iter().zip(dz.chunks(v)).zip(&self.aims) {
            let stay = usize::from(matches!(aim, Aim::Stay { .. }));
            all[stay].push(*loss);
            all[2 + stay].extend(dz);
        }
        all[4] = twin::down(&logp);
        all
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::loss::kernels") else { return };
    for &(case, shape, fill) in CASES {
        let inputs = |draw: &mut Draw| {
            let mut case = Case::draw(draw, shape, fill);
            for aim in &mut case.aims {
                let (Aim::Say { weight, .. } | Aim::Stay { weight, .. }) = aim;
                *weight = f64::from(*weight as f32);
            }
            case
        };
        let name = format!("loss, {case}");
        budget::kernel(&name, &engines, &[Elem::F32; 5], inputs, Case::kernels);
    }
}

#[test]
fn cases() {
    for &(case, shape, fill) in CASES {
        budget::hold(&format!("loss, {case}"), |draw| Case::draw(draw, shape, fill));
    }
}

#[test]
fn nothing_pushed_is_nothing_lost() {
    for &(case, shape, fill) in CASES {
        for precision in [Precision::F32, Precision::F64] {
            let mut case = Case::draw(&mut Draw::new(case, false), shape, fill);
            case.aims = (0..shape[0]).map(|row| Aim::Stay { first: row, weight: 0.7 }).collect();
            let mut z = Tensor::of(precision, &shape, &case.z);
            let mut first = Tensor::zeros(precision, &shape);
            let rows: Vec<usize> = (0..shape[0]).collect();
            loss::log_softmax(&z, &rows, &mut first);
            let losses = losses(&mut z, &case.aims, &first);
            assert!(losses.iter().chain(&z.to_f64()).all(|&x| x == 0.0), "KL is exactly 0");
        }
    }
}

#[test]
fn gradient_is_the_slope() {
    for seed in 0..8 {
        let mut draw = Draw::new(&format!("loss, slope {seed}"), false);
        let case = Case::draw(&mut draw, [5, 37], Fill::Normal);
        let v = draw.normal(case.z.len());
        let loss = |t: f64| {
            let (losses, _) = case.gradient(Precision::F64, &along(&case.z, t, &v));
            case.aims.iter().zip(losses).map(|(aim, loss)| Case::weight(aim) * loss).sum::<f64>()
        };
        let slope = inner(&case.gradient(Precision::F64, &case.z).1, &v);
        // A loss is a sum over V of terms below 8, after a log-sum over V.
        let noise = (2 * 37 + 5) as f64 * U64 * 8.0 * 1.3 * 5.0;
        budget::central(&format!("loss {seed}"), slope, noise, loss);
    }
}
