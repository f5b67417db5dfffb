//! y = x Wᵀ + b and dx = dy W, for every way a weight is held.

use std::ops::Range;

use half::bf16;
use incise::base::{DType, Float};
use incise::gpu::Engine;
use incise::gpu::kernels::linear_mma::RUN;
use incise::gpu::kernels::linear_split::{LinearSplit, NUMBERS, THREADS};
use incise::gpu::launch::{Elem, Grid};
use incise::ops::cuda::linear as cuda;
use incise::ops::linear;
use incise::tensor::{Layout, Precision, Tensor, Weight};

use crate::support::budget::{self, Op, inner, inner_abs, lost};
use crate::support::toy::{Draw, Held, PLAIN, Part, all_held, cast, weight};
use crate::support::twin;

mod large;
mod library;

/// (case, [N, out, in]), with a weight in a file in f32.
const SHAPES: &[(&str, [usize; 3])] = &[
    ("no row", [0, 5, 7]),
    ("one row, one column", [1, 1, 1]),
    ("one row", [1, 131, 67]),
    ("not a multiple of anything", [7, 129, 131]),
    ("GPT-2 small", [17, 768, 768]),
    ("GPT-2 small, down", [3, 768, 3072]),
    ("higher than a tile", [515, 5, 7]),
    ("wider than a tile, deeper than a panel", [3, 1031, 1033]),
];

struct Linear {
    n: usize,
    w: Weight,
    values: Vec<f64>, // (out, in)
    b: Option<Vec<f64>>,
    x: Vec<f64>,
    dy: Vec<f64>,
    dx: Option<Vec<f64>>, // what the gradient is added to
}

impl Linear {
    fn draw(draw: &mut Draw, [n, out, inner]: [usize; 3], held: Held) -> Linear {
        let (w, values) = weight(draw, [out, inner], held);
        let (x, dy) = (draw.normal(n * inner), draw.normal(n * out));
        // A coin for each, so that all four meet every weight.
        let b = (draw.coin()).then(|| draw.normal(out));
        let dx = (draw.coin()).then(|| draw.normal(n * inner));
        Linear { n, w, values, b, x, dy, dx }
    }
}

impl Op for Linear {
    const OUTPUTS: &'static [&'static str] = &["y", "dx"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let [out, inner] = self.w.dims();
        let (w, x, dy) = (cast::<T>(&self.values), cast::<T>(&self.x), cast::<T>(&self.dy));
        let mut y = vec![T::default(); self.n * out];
        let mut dx = vec![T::default(); self.n * inner];
        for i in 0..self.n {
            for o in 0..out {
                for j in 0..inner {
                    y[i * out + o] += x[i * inner + j] * w[o * inner + j];
                    dx[i * inner + j] += dy[i * out + o] * w[o * inner + j];
                }
            }
        }
        let b = self.b.iter().flat_map(|b| cast::<T>(b).into_iter().cycle());
        y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
        let before = self.dx.iter().flat_map(|dx| cast::<T>(dx));
        dx.iter_mut().zip(before).for_each(|(dx, before)| *dx += before);
        vec![y, dx]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let [out, inner] = self.w.dims();
        let tensor = |width, values: &[f64]| Tensor::of(precision, &[self.n, width], values);
        // What stands in an output that is not added to must not matter.
        let mut y = tensor(out, &vec![f64::NAN; self.n * out]);
        let b = self.b.as_ref().map(|b| Tensor::of(precision, &[out], b));
        linear::forward(&tensor(inner, &self.x), &self.w, b.as_ref(), &mut y);
        let stale = vec![f64::NAN; self.n * inner];
        let mut dx = tensor(inner, self.dx.as_ref().unwrap_or(&stale));
        linear::backward(&tensor(out, &self.dy), &self.w, &mut dx, self.dx.is_some());
        vec![y.to_f64(), dx.to_f64()]
    }
}

/// The types of the products and of W, whether results are rounded to the first, and how W lies:
/// `step` elements from one to the next of a row or, of a transposed one, of a column, and `gap`
/// more from row to row.
#[derive(Clone, Copy, Debug)]
struct Lying {
    elem: Elem,
    of: Elem,
    rounded: bool,
    layout: Layout,
    step: usize,
    gap: usize,
}

impl Lying {
    /// An ordinary matrix.
    fn plain((elem, of): (Elem, Elem), layout: Layout) -> Lying {
        Lying { elem, of, rounded: false, layout, step: 1, gap: 0 }
    }

    /// What is left out of Σ |a| |w| where numbers are taken for hi + lo: see `linear_mma.cu`.
    fn split(&self) -> f64 {
        let units = match (self.elem, self.of) {
            (Elem::BF16, Elem::BF16 | Elem::F16) => 0.0,
            (Elem::BF16, _) | (_, Elem::BF16) => 1.0,
            (_, Elem::F16) => 3.0,
            _ => 4.0 * (1.0 + f64::powi(2.0, -19)),
        };
        units * f64::powi(2.0, -17)
    }

    /// What sums of k products in `linear_mma` may lose of Σ |a||w| besides rounding: parts that
    /// are left out, and a run's sums in tensor cores; parts are up to 2⁻⁸ larger than their
    /// numbers.
    fn lost(&self, k: usize) -> f64 {
        let parts = |elem| if elem == Elem::BF16 { 1 } else { 2 };
        let products = f64::from(parts(self.elem) + parts(self.of) - 1);
        self.split() + 1.02 * products * lost(k.min(RUN))
    }

    /// The type of results.
    fn to(&self) -> Elem {
        if self.rounded { self.elem } else { Elem::F32 }
    }
}

const PAIRS: [(Elem, Elem); 6] = [
    (Elem::F32, Elem::F32),
    (Elem::F32, Elem::BF16),
    (Elem::F32, Elem::F16),
    (Elem::BF16, Elem::F32),
    (Elem::BF16, Elem::BF16),
    (Elem::BF16, Elem::F16),
];
const LAYOUTS: [Layout; 2] = [Layout::OutIn, Layout::InOut];

impl Linear {
    /// With x and dy in elements of one type and W in those of another; what is rounded is not
    /// added to.
    fn rounded(mut self, lying: &Lying) -> Linear {
        let round = |x: &Vec<f64>| twin::rounded(lying.elem, x);
        (self.x, self.dy) = (round(&self.x), round(&self.dy));
        self.dx = self.dx.filter(|_| !lying.rounded);
        self.values = twin::rounded(lying.of, &self.values);
        self
    }

    /// What is left of a product where the upper halves of numbers cancel: pairs of x, or of dy,
    /// are (p, hi p), and those of W along that side (q, −hi q).
    fn lower_halves(draw: &mut Draw, forward: bool, lying: &Lying) -> Linear {
        let mut case = Linear::draw(draw, [9, 62, 62], PLAIN).rounded(lying);
        (case.b, case.dx) = (None, None);
        let upper = |x: f64| twin::rounded(Elem::BF16, &[x])[0];
        let left = if forward { &mut case.x } else { &mut case.dy };
        left.chunks_mut(2).for_each(|p| p[1] = upper(p[0]));
        let next = if forward { 1 } else { 62 };
        for at in (0..62 * 62).filter(|at| at / next % 2 == 0) {
            case.values[at + next] = -upper(case.values[at]);
        }
        case
    }

    fn kernels(&self, engine: &Engine, lying: &Lying) -> Vec<Vec<f64>> {
        let (n, [out, inner]) = (self.n, self.w.dims());
        let (row_stride, col_stride) = match lying.layout {
            Layout::OutIn => (lying.step * inner + lying.gap, lying.step),
            Layout::InOut => (lying.step, lying.step * out + lying.gap),
        };
        let mut stored = vec![f64::NAN; row_stride * (out - 1) + col_stride * (inner - 1) + 1];
        for (i, &value) in self.values.iter().enumerate() {
            stored[i / inner * row_stride + i % inner * col_stride] = value;
        }
        let w = twin::up(engine, lying.of, &stored);
        let b = twin::up(engine, Elem::F32, self.b.as_ref().unwrap_or(&vec![]));
        let [x, dy] = [&self.x, &self.dy].map(|x| twin::up(engine, lying.elem, x));
        let mut y = engine.array(lying.to(), n * out).unwrap();
        let stale = vec![f64::NAN; n * inner];
        let mut dx = twin::up(engine, lying.to(), self.dx.as_ref().unwrap_or(&stale));
        let w = cuda::DeviceMatrix { w: &w, out, inner, row_stride, col_stride };
        cuda::forward(engine, &x, w, self.b.is_some().then_some(&b), &mut y);
        cuda::backward(engine, &dy, w, &mut dx, self.dx.is_some());
        [y, dx].iter().map(twin::down).collect()
    }

    /// Its first rows.
    fn top(&self, n: usize) -> Linear {
        self.part(0..n)
    }

    /// Some of its rows.
    fn part(&self, rows: Range<usize>) -> Linear {
        let [out, inner] = self.w.dims();
        let some = |x: &[f64], width: usize| x[rows.start * width..rows.end * width].to_vec();
        Linear {
            n: rows.len(),
            w: self.w.clone(),
            values: self.values.clone(),
            b: self.b.clone(),
            x: some(&self.x, inner),
            dy: some(&self.dy, out),
            dx: self.dx.as_ref().map(|dx| some(dx, inner)),
        }
    }

    /// How far y and dx may be off besides, where tensor cores form them.
    fn lost_by_cores(&self, lying: &Lying) -> Vec<f64> {
        let largest = |x: Vec<f64>| x.into_iter().fold(0.0, f64::max);
        let sizes = self.sizes().plain().into_iter().map(largest);
        let [out, inner] = self.w.dims();
        // Forward products of a few rows are sums of f32.
        let y = if self.n <= cuda::FEW { 0.0 } else { lying.lost(inner) };
        [y, lying.lost(out)].into_iter().zip(sizes).map(|(lost, size)| lost * size).collect()
    }

    /// Whose products are the sums of |a| |w|.
    fn sizes(&self) -> Linear {
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect();
        Linear {
            w: self.w.clone(),
            values: abs(&self.values),
            x: abs(&self.x),
            dy: abs(&self.dy),
            b: None,
            dx: None,
            n: self.n,
        }
    }

    fn hold(
        case: &str,
        engines: &[(String, Engine)],
        lying: Lying,
        inputs: impl Fn(&mut Draw) -> Linear,
    ) {
        budget::kernel_besides(
            &format!("linear, {case}, {lying:?}"),
            engines,
            &[lying.to(); 2],
            inputs,
            |case, engine| case.kernels(engine, &lying),
            |case| case.lost_by_cores(&lying),
        );
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::linear::kernels") else { return };
    // [N, out, in], step, gap: some of them with each pair of types, as all take long.
    let mut shapes = [
        ([0, 5, 7], 1, 0),
        ([65, 64, 96], 1, 8),
        ([1, 1, 1], 1, 0),
        ([7, 129, 131], 2, 1),
        ([9, 40, 24], 1, 0),
        ([130, 5, 7], 1, 0),
        ([9, 131, 67], 1, 3),
        ([2, 67, 1031], 1, 0),
    ]
    .into_iter()
    .cycle();
    let mut rounded = false;
    for (pair, layout) in PAIRS.into_iter().flat_map(|pair| LAYOUTS.map(|l| (pair, l))) {
        for (shape, step, gap) in shapes.by_ref().take(3) {
            // Of f32, rounded and not are one.
            rounded = !rounded && pair.0 == Elem::BF16;
            let lying = Lying { rounded, step, gap, ..Lying::plain(pair, layout) };
            Linear::hold(&format!("{shape:?}"), &engines, lying, |draw| {
                Linear::draw(draw, shape, PLAIN).rounded(&lying)
            });
        }
    }
}

/// What is rounded is what would not be, rounded once.
#[test]
fn kernels_round_once() {
    let Some(engines) = twin::engines("ops::linear::kernels_round_once") else { return };
    for (of, layout) in [(Elem::BF16, Layout::OutIn), (Elem::F16, Layout::InOut)] {
        let wide = Lying::plain((Elem::BF16, of), layout);
        let narrow = Lying { rounded: true, ..wide };
        for n in [cuda::FEW, 37] {
            let mut draw = Draw::new("linear, rounded", true);
            let case = Linear::draw(&mut draw, [n, 33, 67], PLAIN).rounded(&narrow);
            for (name, engine) in &engines {
                let [got, want] = [narrow, wide].map(|lying| case.kernels(engine, &lying));
                let once: Vec<_> = want.iter().map(|x| twin::rounded(Elem::BF16, x)).collect();
                assert_eq!(got, once, "{n} rows on {name}");
                assert_ne!(got, want, "there is something to round");
            }
        }
    }
}

/// In ordinary sums of bf16 the lower halves of numbers drown in the rounding of the result.
#[test]
fn kernels_sum_the_lower_halves() {
    let Some(engines) = twin::engines("ops::linear::kernels_sum_the_lower_halves") else { return };
    // Of the sources one, as they give the same bits.
    let (compiled, sources): (Vec<_>, Vec<_>) =
        engines.into_iter().partition(|(name, _)| twin::is_compiled(name));
    let engines: Vec<_> = sources.into_iter().take(1).chain(compiled).collect();
    for (pair, forward) in PAIRS.into_iter().flat_map(|p| [(p, true), (p, false)]) {
        let lying = Lying::plain(pair, Layout::OutIn);
        Linear::hold("lower halves", &engines, lying, |draw| {
            Linear::lower_halves(draw, forward, &lying)
        });
    }
}

#[test]
fn kernels_rows_do_not_depend_on_their_neighbours() {
    let name = "ops::linear::kernels_rows_do_not_depend_on_their_neighbours";
    let Some(engines) = twin::engines(name) else { return };
    for (pair, layout) in PAIRS.into_iter().zip(LAYOUTS.into_iter().cycle()) {
        let lying = Lying::plain(pair, layout);
        let mut draw = Draw::new("linear, kernels, neighbours", true);
        let all = Linear::draw(&mut draw, [150, 37, 131], PLAIN).rounded(&lying);
        let run = |case: &Linear| case.kernels(&engines[0].1, &lying);
        let [few, many] = [cuda::FEW, 150].map(|n| run(&all.top(n)));
        for n in [1, 2, 3, 5, 9, 17, 64, 65, 128, 129] {
            // Only forward products of a few rows go another way.
            let wholes = if n <= cuda::FEW { [&few[0], &many[1]] } else { [&many[0], &many[1]] };
            for (some, whole) in run(&all.top(n)).iter().zip(wholes) {
                assert_eq!(some[..], whole[..some.len()], "{lying:?}, {n} rows");
            }
        }
    }
}

/// Parts are the nearest bf16 and the nearest to what is left, to the bit.
#[test]
fn kernels_split() {
    let Some(engines) = twin::engines("ops::linear::kernels_split") else { return };
    let n = (THREADS + 3) * NUMBERS;
    let mut draw = Draw::new("linear, split", true);
    let x = twin::rounded(Elem::F32, &draw.normal(n));
    let near = |x: &[f64]| x.iter().map(|&x| bf16::from_f32(x as f32).to_f64()).collect::<Vec<_>>();
    let hi = near(&x);
    let left: Vec<f64> = x.iter().zip(&hi).map(|(x, hi)| x - hi).collect();
    let want = [hi, near(&left)].concat();
    for (name, engine) in &engines {
        let x = twin::up(engine, Elem::F32, &x);
        let mut y = engine.array(Elem::BF16, 2 * n).unwrap();
        LinearSplit { x: x.read(), N: n as i32, y: y.write() }
            .launch(engine, Grid::each(n / NUMBERS, THREADS));
        assert!(twin::down(&y) == want, "{name}");
    }
}

#[test]
fn shapes() {
    for &(case, shape) in SHAPES {
        budget::hold(&format!("linear, {case}"), |draw| Linear::draw(draw, shape, PLAIN));
    }
}

/// A few rows, and more, may go different ways.
#[test]
fn heights() {
    for n in (1..14).chain([47, 48, 49, 63, 64, 65]) {
        budget::hold(&format!("linear, {n} rows"), |draw| {
            let layout = if draw.coin() { Layout::OutIn } else { Layout::InOut };
            let held = Held::File { dtype: DType::F32, layout, part: Part::Whole, shift: 0 };
            Linear::draw(draw, [n, 29, 67], held)
        });
    }
}

#[test]
fn weights() {
    for (held, out) in all_held().into_iter().flat_map(|held| [(held, 37), (held, 36)]) {
        let case = format!("linear, {held:?}, {out} rows");
        budget::hold(&case, |draw| Linear::draw(draw, [5, out, 131], held));
    }
    // More columns than a tile and more depth than a panel, widened piece by piece.
    for (layout, part) in
        [(Layout::OutIn, Part::Slice), (Layout::InOut, Part::Slice), (Layout::OutIn, Part::Every)]
    {
        let held = Held::File { dtype: DType::BF16, layout, part, shift: 1 };
        let large = |draw: &mut Draw| Linear::draw(draw, [3, 1032, 1033], held);
        budget::hold(&format!("linear, large, {held:?}"), large);
    }
}

#[test]
fn backward_is_the_adjoint() {
    for held in all_held() {
        let mut draw = Draw::new("linear, adjoint", false);
        let (n, out, width) = (5, 37, 131);
        let (w, values) = weight(&mut draw, [out, width], held);
        let (v, u) = (draw.normal(n * width), draw.normal(n * out));
        let tensor = |width, values: &[f64]| Tensor::of(Precision::F64, &[n, width], values);
        let (mut y, mut dx) = (tensor(out, &u), tensor(width, &v));
        linear::forward(&tensor(width, &v), &w, None, &mut y);
        linear::backward(&tensor(out, &u), &w, &mut dx, false);
        let sides = [inner(&u, &y.to_f64()), inner(&dx.to_f64(), &v)];
        let size: f64 = (0..n)
            .flat_map(|i| (0..out).map(move |o| (i, o)))
            .map(|(i, o)| {
                u[i * out + o].abs()
                    * inner_abs(&values[o * width..][..width], &v[i * width..][..width])
            })
            .sum();
        budget::adjoint(&format!("linear, {held:?}"), sides, n * out * width, size);
    }
}

/// More than 48 rows, or f64: a row is the same bits with whatever others.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let most = 1030;
    for (held, shape) in all_held().into_iter().flat_map(|h| [(h, [37, 131]), (h, [129, 5])]) {
        let mut draw = Draw::new("linear, neighbours", true);
        let (w, _) = weight(&mut draw, shape, held);
        let (x, dy) = (draw.normal(most * shape[1]), draw.normal(most * shape[0]));
        for precision in [Precision::F32, Precision::F64] {
            let run = |n: usize| {
                let of = |width, x: &[f64]| Tensor::of(precision, &[n, width], &x[..n * width]);
                let (mut y, mut dx) = (of(shape[0], &dy), of(shape[1], &x));
                linear::forward(&of(shape[1], &x), &w, None, &mut y);
                linear::backward(&of(shape[0], &dy), &w, &mut dx, true);
                [y.to_f64(), dx.to_f64()]
            };
            let all = run(most);
            let least = if precision == Precision::F32 { 49 } else { 1 };
            for n in [least, 50, 127, 257, 512, 513, 700] {
                for (some, all) in run(n).iter().zip(&all) {
                    assert_eq!(some[..], all[..some.len()], "{held:?} {shape:?} {precision:?} {n}");
                }
            }
        }
    }
}
