//! Losses at rows of logits, and their gradient.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::cuda::loss as cuda;
use incise::ops::loss::{self, LossRows, RowLoss};
use incise::tensor::{Compute, Precision, Tensor};

use crate::support::budget::{self, Op, U64, along, inner};
use crate::support::toy::{Draw, Fill, cast, exp, ln};
use crate::support::twin;

/// (case, [R, V], logits, their cap).
const CASES: &[(&str, [usize; 2], Fill, Option<f64>)] = &[
    ("no row", [0, 7], Fill::Normal, None),
    ("one row, one column", [1, 1], Fill::Normal, None),
    ("not a multiple of anything", [7, 129], Fill::Normal, None),
    ("GPT-2 small", [3, 50_257], Fill::Normal, None),
    ("large mean, small spread", [4, 517], Fill::Offset(1e3), None),
    ("one token takes all", [5, 67], Fill::Wide(1e2), None),
    ("a cap", [6, 129], Fill::Wide(3.0), Some(2.5)),
    ("a cap that all logits meet", [4, 67], Fill::Wide(1e2), Some(2.0)),
];

struct Case {
    v: usize,
    z: Vec<f64>,         // (R, V)
    reference: Vec<f64>, // (2, V): logits of p⁰
    rows: Vec<RowLoss>,
    cap: Option<f64>,
}

/// Logits behind their cap.
fn capped(z: &[f64], cap: Option<f64>) -> Vec<f64> {
    z.iter().map(|&z| cap.map_or(z, |c| c * (z / c).tanh())).collect()
}

impl Case {
    fn draw(draw: &mut Draw, [r, v]: [usize; 2], fill: Fill, cap: Option<f64>) -> Case {
        // Both losses, in no order; two rows may share a row of ln p⁰.
        let row = |_| {
            if draw.coin() {
                let target = draw.below(v) as u32;
                RowLoss::CrossEntropy { target, weight: 0.3 + draw.uniform() }
            } else {
                RowLoss::Kl { reference: draw.below(2), weight: 0.3 + draw.uniform() }
            }
        };
        let rows = (0..r).map(row).collect();
        let z: Vec<f64> = (0..r).flat_map(|_| draw.fill(fill, v)).collect();
        Case { v, z: capped(&z, cap), reference: draw.normal(2 * v), rows, cap }
    }

    /// Losses without their weights, and weight·dz.
    fn gradient(&self, precision: Precision, z: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let tensor = |z: &[f64]| Tensor::of(precision, &[z.len() / self.v, self.v], z);
        let mut reference = tensor(&vec![f64::NAN; self.reference.len()]);
        loss::log_softmax(&tensor(&self.reference), &[0, 1], &mut reference);
        let mut z = tensor(z);
        (losses(&mut z, &self.rows, &reference, self.cap), z.to_f64())
    }

    fn weight(row: &RowLoss) -> f64 {
        match *row {
            RowLoss::CrossEntropy { weight, .. } | RowLoss::Kl { weight, .. } => weight,
        }
    }
}

/// Losses; z becomes their weighted gradient.
fn losses(z: &mut Tensor, rows: &[RowLoss], reference: &Tensor, cap: Option<f64>) -> Vec<f64> {
    let all = 0..rows.len();
    let mut losses = LossRows::new(&z.compute(), vec![all.clone()], rows.to_vec());
    loss::gradient(z, &mut losses, all, reference, cap);
    losses.of(0).map(|(_, result)| result.loss).collect()
}

fn log_softmax<T: Float>(z: &[T]) -> Vec<T> {
    let top = z.iter().fold(z[0], |a, &z| a.max(z));
    let lse = top + ln(z.iter().map(|&z| exp(z - top)).sum::<T>());
    z.iter().map(|&z| z - lse).collect()
}

impl Op for Case {
    const OUTPUTS: &'static [&'static str] = &["nll", "kl", "d nll", "d kl", "log-softmax"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let v = self.v;
        let (z, reference) = (cast::<T>(&self.z), cast::<T>(&self.reference));
        let mut all = vec![Vec::new(); 5];
        for (z, row) in z.chunks(v).zip(&self.rows) {
            let logp = log_softmax(z);
            let p: Vec<T> = logp.iter().map(|&l| exp(l)).collect();
            let w = T::of(Case::weight(row));
            let slope = |i: usize| match self.cap.map(T::of) {
                None => T::of(1.0),
                Some(c) => (T::of(1.0) - z[i] / c) * (T::of(1.0) + z[i] / c),
            };
            match *row {
                RowLoss::CrossEntropy { target, .. } => {
                    let y = target as usize;
                    all[0].push(-logp[y]);
                    let hot = |i| T::of(if i == y { 1.0 } else { 0.0 });
                    all[2].extend((0..v).map(|i| w * (p[i] - hot(i)) * slope(i)));
                }
                RowLoss::Kl { reference: at, .. } => {
                    let reference = log_softmax(&reference[at * v..][..v]);
                    let gap: Vec<T> = (0..v).map(|i| logp[i] - reference[i]).collect();
                    let kl: T = (0..v).map(|i| p[i] * gap[i]).sum();
                    all[1].push(kl);
                    all[3].extend((0..v).map(|i| w * p[i] * (gap[i] - kl) * slope(i)));
                }
            }
            all[4].extend(logp);
        }
        all
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let (losses, dz) = self.gradient(precision, &self.z);
        let mut all = vec![Vec::new(); 5];
        for ((loss, dz), row) in losses.iter().zip(dz.chunks(self.v)).zip(&self.rows) {
            let kl = usize::from(matches!(row, RowLoss::Kl { .. }));
            all[kl].push(*loss);
            all[2 + kl].extend(dz);
        }
        // The rows backwards and back again.
        let backwards: Vec<usize> = (0..self.rows.len()).rev().collect();
        let z = Tensor::of(precision, &[self.rows.len(), self.v], &self.z);
        let mut logp = Tensor::of(precision, z.shape(), &vec![f64::NAN; z.len()]);
        loss::log_softmax(&z, &backwards, &mut logp);
        all[4].extend(backwards.iter().flat_map(|&row| logp.row_f64(row)));
        all
    }
}

impl Case {
    fn kernels(&self, engine: &Engine) -> Vec<Vec<f64>> {
        let (r, v) = (self.rows.len(), self.v);
        let single = |x: &[f64]| twin::up(engine, Elem::F32, x);
        let index = |x: Vec<f64>| twin::up(engine, Elem::I32, &x);
        let room = |n: usize| engine.array(Elem::F32, n).unwrap();
        let (mut reference, mut logp) = (room(2 * v), room(r * v));
        let rows = |n: usize| index((0..n).map(|row| row as f64).collect());
        cuda::log_softmax(engine, &single(&self.reference), &rows(2), v, &mut reference);
        let mut z = single(&self.z);
        cuda::log_softmax(engine, &z, &rows(r), v, &mut logp);
        let mut on_device = cuda::DeviceLossRows::new(engine, &[], &self.rows).unwrap();
        // Two pieces, where there are two rows.
        for rows in [0..r / 2, r / 2..r] {
            let mut piece = single(&self.z[rows.start * v..rows.end * v]);
            let on_device = &mut on_device;
            cuda::gradient(engine, &mut piece, v, on_device, rows.clone(), &reference, self.cap);
            z.copy(rows.start * v, &piece, 0..rows.len() * v);
        }
        let (losses, dz) = (twin::down(&on_device.loss), twin::down(&z));
        let mut all = vec![Vec::new(); 5];
        for ((loss, dz), row) in losses.iter().zip(dz.chunks(v)).zip(&self.rows) {
            let kl = usize::from(matches!(row, RowLoss::Kl { .. }));
            all[kl].push(*loss);
            all[2 + kl].extend(dz);
        }
        all[4] = twin::down(&logp);
        all
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::loss::kernels") else { return };
    for &(case, shape, fill, cap) in CASES {
        let inputs = |draw: &mut Draw| {
            let mut case = Case::draw(draw, shape, fill, cap);
            for row in &mut case.rows {
                let (RowLoss::CrossEntropy { weight, .. } | RowLoss::Kl { weight, .. }) = row;
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
    for &(case, shape, fill, cap) in CASES {
        budget::hold(&format!("loss, {case}"), |draw| Case::draw(draw, shape, fill, cap));
    }
}

#[test]
fn a_row_is_no_kl_from_itself() {
    for &(case, shape, fill, cap) in CASES {
        for precision in [Precision::F32, Precision::F64] {
            let mut case = Case::draw(&mut Draw::new(case, false), shape, fill, cap);
            let kl = |reference| RowLoss::Kl { reference, weight: 0.7 };
            case.rows = (0..shape[0]).map(kl).collect();
            let mut z = Tensor::of(precision, &shape, &case.z);
            let mut reference = Tensor::zeros(precision, &shape);
            let rows: Vec<usize> = (0..shape[0]).collect();
            loss::log_softmax(&z, &rows, &mut reference);
            let losses = losses(&mut z, &case.rows, &reference, cap);
            assert!(losses.iter().chain(&z.to_f64()).all(|&x| x == 0.0), "KL is exactly 0");
        }
    }
}

#[test]
fn gradient_is_the_slope() {
    for (seed, cap) in (0..8).map(|seed| (seed, (seed % 2 == 1).then_some(1.5))) {
        let mut draw = Draw::new(&format!("loss, slope {seed}"), false);
        let case = Case { cap, ..Case::draw(&mut draw, [5, 37], Fill::Normal, None) };
        let v = draw.normal(case.z.len());
        let loss = |t: f64| {
            let z = capped(&along(&case.z, t, &v), cap);
            let (losses, _) = case.gradient(Precision::F64, &z);
            case.rows.iter().zip(losses).map(|(row, loss)| Case::weight(row) * loss).sum::<f64>()
        };
        let slope = inner(&case.gradient(Precision::F64, &capped(&case.z, cap)).1, &v);
        // A loss is a sum over V of terms below 8, after a log-sum over V.
        let noise = (2 * 37 + 5) as f64 * U64 * 8.0 * 1.3 * 5.0;
        budget::central(&format!("loss {seed}"), slope, noise, loss);
    }
}

/// A row's weight in the gradient: times its group's factor for a cross-entropy, else as it is.
#[test]
fn groups_are_scaled() {
    let mut computes: Vec<Compute> = vec![Precision::F32.into()];
    computes.extend(twin::engine("ops::loss::groups_are_scaled").map(Compute::from));
    for compute in &computes {
        let (v, factor) = (7, [0.75, 0.5]);
        let rows = vec![
            RowLoss::Kl { reference: 0, weight: 0.25 },
            RowLoss::CrossEntropy { target: 3, weight: 0.5 },
            RowLoss::CrossEntropy { target: 2, weight: 1.0 },
            RowLoss::CrossEntropy { target: 0, weight: 2.0 },
        ];
        let gradient = |rows: Vec<RowLoss>, factor: Option<&[f64; 2]>| {
            let mut losses = LossRows::new(compute, vec![0..2, 2..3], rows);
            if let Some(factor) = factor {
                losses.scale(&Tensor::of(compute, &[2, 1], factor));
            }
            let z: Vec<f64> = (0..4 * v).map(|i| (i % 5) as f64).collect();
            let mut z = Tensor::of(compute, &[4, v], &z);
            let reference = Tensor::zeros(compute, &[1, v]);
            loss::gradient(&mut z, &mut losses, 0..4, &reference, None);
            z.to_f64()
        };
        let mut scaled = rows.clone();
        scaled[1] = RowLoss::CrossEntropy { target: 3, weight: 0.5 * factor[0] };
        scaled[2] = RowLoss::CrossEntropy { target: 2, weight: factor[1] };
        assert_eq!(gradient(rows, Some(&factor)), gradient(scaled, None), "{compute:?}");
    }
}
