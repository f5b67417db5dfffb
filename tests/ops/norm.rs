//! Layer and RMS normalisation, forward and backward.

use incise::base::Float;
use incise::gpu::kernels::norm::{NormBwd, NormFwd};
use incise::gpu::launch::{Elem, Grid};
use incise::gpu::{Array, Engine};
use incise::ops::cuda::norm::{self as cuda, DeviceSaved};
use incise::ops::norm::{self, Norm, NormKind, Saved};
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, U64, along, inner, inner_abs};
use crate::support::toy::{Draw, Fill, cast};
use crate::support::twin;

const F32: Elem = Elem::F32;

/// (case, [N, D], x).
const CASES: &[(&str, [usize; 2], Fill)] = &[
    ("no row", [0, 7], Fill::Normal),
    ("one row, one column", [1, 1], Fill::Normal),
    ("not a multiple of anything", [7, 129], Fill::Normal),
    ("GPT-2 small", [64, 768], Fill::Normal),
    ("wider than a block", [3, 16_384], Fill::Normal),
    ("wider than a block holds", [1, 16_392], Fill::Normal),
    ("short rows of packets", [37, 72], Fill::Normal),
    ("large mean, small spread", [8, 512], Fill::Offset(1e4)),
    ("small beside eps", [8, 67], Fill::Wide(1e-4)),
    ("a constant row", [16, 64], Fill::Constant),
];

struct Case {
    kind: NormKind,
    n: usize,
    eps: f64,
    x: Vec<f64>,
    g: Vec<f64>,
    b: Option<Vec<f64>>,
    dy: Vec<f64>,
    dx: Vec<f64>, // what the gradient is added to
}

impl Case {
    fn draw(draw: &mut Draw, kind: NormKind, [n, d]: [usize; 2], fill: Fill) -> Case {
        // A constant row is one number; another row is another.
        let x = (0..n).flat_map(|_| draw.fill(fill, d)).collect();
        let (g, b) = (draw.normal(d), draw.normal(d));
        let b = (kind == NormKind::Layer).then_some(b);
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
            let layer = self.kind == NormKind::Layer;
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

    /// … and x too, as rows of heads are, whose gradient is not added to another.
    fn head_inputs(mut self, elem: Elem) -> Case {
        self.x = twin::rounded(elem, &self.x);
        self.dx.fill(0.0);
        self.kernel_inputs(elem)
    }

    /// What `run` makes of the parameters and of room for y, m and s, and this room.
    fn on(
        &self,
        engine: &Engine,
        elem: Elem,
        run: impl FnOnce(cuda::DeviceNorm, &mut [Array; 3]) -> Array,
    ) -> Vec<Vec<f64>> {
        let (n, d, f32) = (self.n, self.g.len(), Elem::F32);
        let g = twin::up(engine, f32, &self.g);
        let b = self.b.as_ref().map(|b| twin::up(engine, f32, b));
        let (kind, eps) = (self.kind, self.eps as f32);
        let p = cuda::DeviceNorm { kind, eps, gain: &g, bias: b.as_ref() };
        let array = |elem, len| engine.array(elem, len).unwrap();
        let mut out = [array(elem, n * d), array(f32, n), array(f32, n)];
        let dx = run(p, &mut out);
        out.iter().chain([&dx]).map(twin::down).collect()
    }

    fn kernels(&self, engine: &Engine, elem: Elem) -> Vec<Vec<f64>> {
        let (x, dy) = (twin::up(engine, Elem::F32, &self.x), twin::up(engine, elem, &self.dy));
        let mut dx = twin::up(engine, Elem::F32, &self.dx);
        let mut kept = engine.array(Elem::F32, x.len()).unwrap();
        self.on(engine, elem, |p, [y, m, s]| {
            cuda::forward(engine, &x, p, y, DeviceSaved { x: &mut kept, m, s });
            cuda::backward(engine, &dy, p, &kept, [m, s], &mut dx);
            dx
        })
    }

    fn heads(&self, engine: &Engine, elem: Elem) -> Vec<Vec<f64>> {
        let mut d = twin::up(engine, elem, &self.dy);
        let mut kept = engine.array(elem, self.x.len()).unwrap();
        self.on(engine, elem, |p, [y, m, s]| {
            *y = twin::up(engine, elem, &self.x);
            cuda::heads_forward(engine, y, p, DeviceSaved { x: &mut kept, m, s });
            cuda::heads_backward(engine, p, &kept, [m, s], &mut d);
            d
        })
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::norm::kernels") else { return };
    for &(case, shape, fill) in CASES {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for elem in [Elem::F32, Elem::BF16] {
                let draw = |draw: &mut Draw| Case::draw(draw, kind, shape, fill);
                let name = format!("norm {kind:?} {elem:?}, {case}");
                let inputs = |d: &mut Draw| draw(d).kernel_inputs(elem);
                let run = |case: &Case, engine: &Engine| case.kernels(engine, elem);
                budget::kernel(&name, &engines, &[elem, F32, F32, F32], inputs, run);
                let name = format!("norm of heads {kind:?} {elem:?}, {case}");
                let inputs = |d: &mut Draw| draw(d).head_inputs(elem);
                let run = |case: &Case, engine: &Engine| case.heads(engine, elem);
                budget::kernel(&name, &engines, &[elem, F32, F32, elem], inputs, run);
            }
        }
    }
}

/// The sum that is normalised is the sum in f32, bit for bit; and a row shared by several warps is
/// the same in every order.
#[test]
fn kernels_of_a_sum() {
    let Some(engines) = twin::engines("ops::norm::kernels_of_a_sum") else { return };
    for shape in [[1, 1], [5, 67], [5, 64], [1, 1032], [2, 1031], [1, 16_392]] {
        for elem in [Elem::F32, Elem::BF16] {
            let mut draw = Draw::new("norm of a sum", true);
            let mut case =
                Case::draw(&mut draw, NormKind::Layer, shape, Fill::Normal).kernel_inputs(elem);
            let (x, added) = (case.x.clone(), twin::rounded(F32, &draw.normal(case.x.len())));
            let sum = x.iter().zip(&added).map(|(x, a)| x + a).collect::<Vec<_>>();
            case.x = twin::rounded(F32, &sum);
            let of_sources = case.kernels(&engines[0].1, elem);
            for (name, engine) in &engines {
                let compiled = twin::is_compiled(name).then(|| case.kernels(engine, elem));
                let want = compiled.as_ref().unwrap_or(&of_sources);
                let (mut x, added) = (twin::up(engine, F32, &x), twin::up(engine, F32, &added));
                let (dy, mut dx) =
                    (twin::up(engine, elem, &case.dy), twin::up(engine, F32, &case.dx));
                let mut kept = engine.array(F32, case.x.len()).unwrap();
                let got = case.on(engine, elem, |p, [y, m, s]| {
                    let all = DeviceSaved { x: &mut kept, m, s };
                    cuda::forward_adding(engine, &mut x, &added, p, y, all);
                    cuda::backward(engine, &dy, p, &kept, [m, s], &mut dx);
                    dx
                });
                assert!(got == *want, "{shape:?} {elem:?} on {name}");
                for sum in [&x, &kept] {
                    assert_eq!(twin::down(sum), case.x, "{shape:?} {elem:?} on {name}");
                }
            }
        }
    }
}

/// Rows of packets that begin where no packet may.
#[test]
fn kernels_off_alignment() {
    let Some(engines) = twin::engines("ops::norm::kernels_off_alignment") else { return };
    let inputs = |draw: &mut Draw| {
        Case::draw(draw, NormKind::Rms, [3, 64], Fill::Normal).kernel_inputs(Elem::BF16)
    };
    let run = |case: &Case, engine: &Engine| {
        let (n, d) = (case.n, case.g.len());
        let shifted = |elem, values: &[f64]| twin::up(engine, elem, &[&[0.0], values].concat());
        let rest = |array: &Array| array.slice().part(1, n * d);
        let (x, dy) = (shifted(F32, &case.x), shifted(Elem::BF16, &case.dy));
        let (y, dx) = (shifted(Elem::BF16, &vec![f64::NAN; n * d]), shifted(F32, &case.dx));
        let grid = Grid { blocks: [1, 1, 1], threads: [16, 4, 1] };
        let kept = shifted(F32, &vec![f64::NAN; n * d]);
        let got = case.on(engine, Elem::BF16, |p, [_, m, s]| {
            let (centred, biased, adds) = (0, 0, 0);
            NormFwd {
                added: p.gain.read(),
                g: p.gain.read(),
                b: p.gain.read(),
                eps: p.eps,
                centred,
                biased,
                adds,
                N: n as i32,
                D: d as i32,
                x: rest(&x).into(),
                kept: rest(&kept).into(),
                y: rest(&y).into(),
                m: m.write(),
                s: s.write(),
            }
            .launch(engine, grid);
            NormBwd {
                dy: rest(&dy).into(),
                g: p.gain.read(),
                x: rest(&kept).into(),
                m: m.read(),
                s: s.read(),
                centred,
                N: n as i32,
                D: d as i32,
                dx: rest(&dx).into(),
            }
            .launch(engine, grid);
            dx
        });
        let [_, m, s, dx] = &got[..] else { unreachable!() };
        vec![twin::down(&y)[1..].to_vec(), m.clone(), s.clone(), dx[1..].to_vec()]
    };
    budget::kernel("norm off alignment", &engines, &[Elem::BF16, F32, F32, F32], inputs, run);
}

#[test]
fn cases() {
    for &(case, shape, fill) in CASES {
        for kind in [NormKind::Layer, NormKind::Rms] {
            let name = format!("norm {kind:?}, {case}");
            budget::hold(&name, |draw| Case::draw(draw, kind, shape, fill));
        }
    }
}

#[test]
fn backward_is_the_slope() {
    for kind in [NormKind::Layer, NormKind::Rms] {
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
