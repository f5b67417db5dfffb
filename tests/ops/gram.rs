//! Key second moments, added to packed totals.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::kernels::gram_mma::RUN;
use incise::gpu::launch::Elem;
use incise::ops::cuda::gram as cuda;
use incise::ops::gram::{self, TOKENS, packed_len};
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, U32, lost};
use crate::support::projection::{Matrix, Numbers, Product, Within};
use crate::support::toy::{Draw, Fill, cast};
use crate::support::twin;

/// (case, [N, F], keys).
const CASES: &[(&str, [usize; 2], Fill)] = &[
    ("no token", [0, 7], Fill::Normal),
    ("one token, one column", [1, 1], Fill::Normal),
    ("not a multiple of anything", [7, 129], Fill::Normal),
    ("GPT-2 small", [5, 768], Fill::Normal),
    ("more tokens than are summed at once", [2 * TOKENS + 77, 33], Fill::Normal),
    ("large mean, small spread", [67, 261], Fill::Offset(1e3)),
];

struct Gram {
    f: usize,
    k: Vec<f64>,
    total: Vec<f64>, // what is there already
}

impl Gram {
    fn draw(draw: &mut Draw, [n, f]: [usize; 2], fill: Fill) -> Gram {
        Gram { f, k: draw.fill(fill, n * f), total: draw.normal(packed_len(f)) }
    }
}

impl Op for Gram {
    const OUTPUTS: &'static [&'static str] = &["total"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let (f, k) = (self.f, cast::<T>(&self.k));
        let mut sums = vec![T::default(); f * f];
        for k in k.chunks(f) {
            for i in 0..f {
                for j in 0..=i {
                    sums[i * f + j] += k[i] * k[j];
                }
            }
        }
        let places = (0..f).flat_map(|i| (0..=i).map(move |j| i * f + j));
        vec![places.zip(&self.total).map(|(at, &t)| T::of(t) + sums[at]).collect()]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let k = Tensor::of(precision, &[self.k.len() / self.f, self.f], &self.k);
        let mut total = self.total.clone();
        gram::accumulate(&k, &mut total);
        vec![total]
    }
}

impl Gram {
    fn kernels(&self, engine: &Engine, elem: Elem) -> Vec<Vec<f64>> {
        let f = self.f;
        let mut part = twin::up(engine, Elem::F32, &vec![0.0; f * f]);
        let mut whole = vec![f64::NAN; f * f]; // what is above the diagonal is nobody's
        let below = (0..f).flat_map(|i| (0..=i).map(move |j| i * f + j));
        below.clone().zip(&self.total).for_each(|(at, &t)| whole[at] = t);
        let mut total = twin::up(engine, Elem::F64, &whole);
        for k in self.k.chunks(AT_ONCE * f) {
            let k = twin::up(engine, elem, k);
            cuda::add(engine, k.read(), [k.len() / f, f], &mut part);
        }
        cuda::flush(engine, f, &mut part, &mut total);
        let left = twin::down(&part);
        assert!(below.clone().all(|at| left[at] == 0.0), "what was counted is not counted again");
        let total = twin::down(&total);
        vec![below.map(|at| total[at]).collect()]
    }
}

/// Tokens a launch takes here: more than are summed at once, and not a multiple.
const AT_ONCE: usize = 300;

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::gram::kernels") else { return };
    let shapes = [[0, 7], [1, 1], [7, 129], [5, 264], [2 * AT_ONCE + 77, 33]];
    for (elem, shape) in [Elem::F32, Elem::BF16].into_iter().flat_map(|e| shapes.map(|s| (e, s))) {
        let inputs = |draw: &mut Draw| {
            let gram = Gram::draw(draw, shape, Fill::Normal);
            let f32 = |x: &Vec<f64>| twin::rounded(Elem::F32, x);
            Gram { k: twin::rounded(elem, &gram.k), total: f32(&gram.total), ..gram }
        };
        let run = |gram: &Gram, engine: &Engine| gram.kernels(engine, elem);
        let besides = |gram: &Gram| {
            let k = gram.k.iter().map(|k| k.abs()).collect();
            let sizes = Gram { f: gram.f, k, total: vec![0.0; gram.total.len()] };
            let largest = sizes.plain::<f64>()[0].iter().fold(0.0, |a: f64, &x| a.max(x));
            vec![lost_by_cores(elem, shape[0]) * largest]
        };
        // The sums are f32 until they join the totals.
        let (case, outputs) = (format!("gram {elem:?}, {shape:?}"), [Elem::F32]);
        budget::kernel_besides(&case, &engines, &outputs, inputs, run, besides);
    }
}

/// What sums over n tokens may lose of Σ |k||k| besides rounding, as `gram_mma.cu` has it: parts
/// that are left out, and a run's sums in tensor cores; parts are up to 2⁻⁸ larger than their
/// numbers.
fn lost_by_cores(elem: Elem, n: usize) -> f64 {
    let (split, products) = match elem {
        Elem::F32 => (4.0 * (1.0 + f64::powi(2.0, -19)) * f64::powi(2.0, -17), 3.0),
        _ => (0.0, 1.0),
    };
    split + 1.02 * products * lost(n.min(RUN))
}

/// The same with the rounding of sums of runs and of launches.
fn size(elem: Elem, n: usize) -> f64 {
    lost_by_cores(elem, n) + 1.02 * (n / RUN + n / cuda::FLUSH + 2) as f64 * U32
}

/// Keys of the MLP of GPT-J, more than wait at once, on top of totals that are there already.
#[test]
fn kernels_large() {
    let Some(engine) = twin::engine("ops::gram::kernels_large") else { return };
    let real = [(Elem::F32, [cuda::FLUSH + 77, 16384]), (Elem::BF16, [8191, 4096])];
    let small = [(Elem::F32, [300, 136]), (Elem::BF16, [131, 264])];
    for (elem, [n, f]) in twin::sizes(real, small) {
        let k = Numbers::draw("large keys", elem, [n, f], [0.0, 1.0]);
        // As large as what is added.
        let u = Numbers::draw("large totals", Elem::BF16, [1, f], [0.0, (n as f64).sqrt() / 2.0]);
        let before = (0..f).flat_map(|i| (0..=i).map(move |j| (i, j)));
        let before: Vec<f64> = before.map(|(i, j)| u.at(i) * u.at(j)).collect();
        let mut totals = cuda::DeviceTotals::new(&engine, f, &before);
        totals.add(&k.up(&engine));
        let total = totals.packed();
        let s = Matrix {
            rows: f,
            cols: f,
            at: |i: usize, j: usize| total[packed_len(i.max(j)) + i.min(j)],
        };
        let at = |i: usize, t: usize| if t < n { k.at(t * f + i) } else { u.at(i) };
        let keys = Matrix { rows: f, cols: n + 1, at };
        let within = Within { size: size(elem, n), last: 0.0 };
        Product::square(&keys).hold(&format!("{elem:?} {n} x {f}"), &s, within);
    }
}

#[test]
fn cases() {
    for &(case, shape, fill) in CASES {
        budget::hold(&format!("gram, {case}"), |draw| Gram::draw(draw, shape, fill));
    }
}

/// However many tokens there are, an f32 sum has at most [`TOKENS`] of them: each is off by at
/// most TOKENS·u of its own size, and so is their total in f64.
#[test]
fn the_error_does_not_grow_with_the_corpus() {
    let mut draw = Draw::new("gram, long", true);
    let (f, n) = (5, 200 * TOKENS);
    let k = draw.fill(Fill::Offset(1.0), n * f);
    let long = Gram { f, k, total: vec![0.0; packed_len(f)] };
    let (want, got) = (&long.plain::<f64>()[0], &long.ours(Precision::F32)[0]);
    let sizes = Gram { k: long.k.iter().map(|k| k.abs()).collect(), ..long };
    for ((got, want), size) in got.iter().zip(want).zip(&sizes.plain::<f64>()[0]) {
        let budget = TOKENS as f64 * f64::from(f32::EPSILON) / 2.0 * size;
        assert!((got - want).abs() <= budget, "off by {:e} > {budget:e}", (got - want).abs());
    }
}
