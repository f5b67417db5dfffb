//! Layer and RMS normalisation, forward and backward.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::cuda::norm as cuda;
use incise::ops::norm::{self, Kind, Norm, Saved};
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, U64, along, inner, inner_abs};
use crate::support::toy::{Draw, Fill, cast};
use crate::support::twin;

/// (case, [N, D], x).
const CASES: &[(&str, [usize; 2], Fill)] = &[
    ("no row", [0, 7], Fill::Normal),
    ("one row, one column", [1, 1], Fill::Normal),
    ("not a multiple of anything", [7, 129], Fill::Normal),
    ("GPT-2 small", [64, 768], Fill::Normal),
    ("wider than a block", [3, 16_384], Fill::Normal),
    ("large mean, small spread", [8, 512], Fill::Offset(1e4)),
    ("small beside eps", [8, 67], Fill::Wide(1e-4)),
    ("a constant row", [16, 64], Fill::Constant),
];

struct Case {
    kind: Kind,
    n: usize,
    eps: f64,
    x: Vec<f64>,
    g: Vec<f64>,
    b: Option<Vec<f64>>,
    dy: Vec<f64>,
    dx: Vec<f64>, // what the gradient is added to
}

impl Case {
    fn draw(draw: &mut Draw, kind: Kind, [n, d]: [usize; 2], fill: Fill) -> Case {
        // A constant row is one number; another row is another.
        let x = (0..n).flat_map(|_| draw.fill(fill, d)).collect();
        let (g, b) = (draw.normal(d), draw.normal(d));
        let b = (kind == Kind::Layer).then_some(b);
        let (dy, dx) = (draw.normal(n * d), draw.normal(n * d));
        Case { kind, n, eps: f64::from(1e-5f32), x, g, b, dy, dx }
    }

    fn params(&self, precision: Precision) -> Norm {
        let vector = |values: &Vec<f64>| Tensor::of(precision, &[values.len()], values);
        let (gain, bias) = (vector(&self.g), self.b.as_ref().map(vector));
        Norm { kind: self.kind, eps: self.eps, gain, bias }
    }

    fn forward(&self, precision: Precision, x: &[f64]) -> (Tensor, Saved) {
        let d = self.g.len();
        let mut y = Tensor::of(precision, &[self.n, d], &vec![f64::NAN; self.n * d]);
        let mut saved = Saved::new(precision, self.n, d);
        let x = Tensor::of(precision, &[self.n, d], x);
        norm::forward(&x, &self.params(precision), &mut y, &mut saved);
        (y, saved)
    }

    fn backward(&self, precision: Precision, saved: &Saved, dx: &[f64]) -> Tensor {
        let tensor = |values: &[f64]| Tensor::of(precision, &[self.n, self.g.len()], values);
        let mut dx = tensor(dx);
        norm::backward(&tensor(&self.dy), &self.params(precision), saved, &mut dx);
        dx
    }
}

impl Op for Case {
    const OUTPUTS: &'static [&'static str] = &["y", "mean", "rstd", "dx"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let d = self.g.len();
        let (g, mut dx) = (cast::<T>(&self.g), cast::<T>(&self.dx));
        let b = self.b.as_ref().map_or(vec![T::default(); d], |b| cast(b));
        let (all_x, all_dy, len) = (cast::<T>(&self.x), cast::<T>(&self.dy), T::of(d as f64));
        let [mut y, mut mean, mut rstd] = [const { Vec::new() }; 3];
        for row in 0..self.n {
            let (x, dy) = (&all_x[row * d..][..d], &all_dy[row * d..][..d]);
            let layer = self.kind == Kind::Layer;
            let m = if layer { x.iter().copied().sum::<T>() / len } else { T::default() };
            let var = x.iter().map(|&x| (x - m) * (x - m)).sum::<T>() / len;
            let s = T::of(1.0) / (var + T::of(self.eps)).sqrt();
            y.extend((0..d).map(|i| (x[i] - m) * s * g[i] + b[i]));
            let p: Vec<T> = (0..d).map(|i| g[i] * dy[i]).collect();
            let h: Vec<T> = x.iter().map(|&x| (x - m) * s).collect();
            let mean_p = if layer { p.iter().copied().sum::<T>() / len } else { T::default() };
            let mean_ph = (0..d).map(|i| p[i] * h[i]).sum::<T>() / len;
            for i in 0..d {
                dx[row * d + i] += s * (p[i] - mean_p - h[i] * mean_ph);
            }
            mean.push(m);
            rstd.push(s);
        }
        vec![y, mean, rstd, dx]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let (y, saved) = self.forward(precision, &self.x);
        let dx = self.backward(precision, &saved, &self.dx);
        assert_eq!(saved.x.to_f64(), self.x, "norm keeps its input");
        vec![y.to_f64(), saved.mean.to_f64(), saved.rstd.to_f64(), dx.to_f64()]
    }
}

impl Case {
    /// With dy in elements of a type.
    fn kernel_inputs(mut self, elem: Elem) -> Case {
        self.dy = twin::rounded(elem, &self.dy);
        self
    }

    fn kernels(&self, engine: &Engine, elem: Elem) -> Vec<Vec<f64>> {
        let (n, d, f32) = (self.n, self.g.len(), Elem::F32);
        let (x, g) = (twin::up(engine, f32, &self.x), twin::up(engine, f32, &self.g));
        let b = twin::up(engine, f32, self.b.as_ref().unwrap_or(&self.g));
        let dy = twin::up(engine, elem, &self.dy);
        let mut y = engine.array(elem, n * d).unwrap();
        let [mut m, mut s] = [(); 2].map(|()| engine.array(f32, n).unwrap());
        let mut dx = twin::up(engine, f32, &self.dx);
        let p = cuda::Norm {
            kind: self.kind,
            eps: self.eps as f32,
            gain: &g,
            bias: self.b.is_some().then_some(&b),
        };
        cuda::forward(engine, &x, p, &mut y, [&mut m, &mut s]);
        cuda::backward(engine, &dy, p, &x, [&m, &s], &mut dx);
        [y, m, s, dx].iter().map(twin::down).collect()
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::norm::kernels") else { return };
    for &(case, shape, fill) in CASES {
        for kind in [Kind::Layer, Kind::Rms] {
            for elem in [Elem::F32, Elem::BF16] {
                let name = format!("norm {kind:?} {elem:?}, {case}");
                let inputs =
                    |draw: &mut Draw| Case::draw(draw, kind, shape, fill).kernel_inputs(elem);
                let outputs = [elem, Elem::F32, Elem::F32, Elem::F32];
                let run = |case: &Case, engine: &Engine| case.kernels(engine, elem);
                budget::kernel(&name, &engines, &outputs, inputs, run);
            }
        }
    }
}

#[test]
fn cases() {
    for &(case, shape, fill) in CASES {
        for kind in [Kind::Layer, Kind::Rms] {
            let name = format!("norm {kind:?}, {case}");
            budget::hold(&name, |draw| Case::draw(draw, kind, shape, fill));
        }
    }
}

#[test]
fn backward_is_the_slope() {
    for kind in [Kind::Layer, Kind::Rms] {
        for seed in 0..8 {
            let mut draw = Draw::new(&format!("norm, slope {seed}"), false);
            let case = Case::draw(&mut draw, kind, [3, 37], Fill::Normal);
            let v = draw.normal(case.x.len());
            let loss = |t: f64| {
                let (y, _) = case.forward(Precision::F64, &along(&case.x, t, &v));
                (inner(&case.dy, &y.to_f64()), inner_abs(&case.dy, &y.to_f64()))
            };
            let (_, saved) = case.forward(Precision::F64, &case.x);
            let dx = case.backward(Precision::F64, &saved, &vec![0.0; case.x.len()]);
            let slope = inner(&dx.to_f64(), &v);
            // Each y passes two sums over D, and the loss sums N·D of them.
            let noise = (2 * 37 + 3 * 37) as f64 * U64 * loss(0.0).1;
            budget::central(&format!("norm {kind:?} {seed}"), slope, noise, |t| loss(t).0);
        }
    }
}
