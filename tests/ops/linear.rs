//! y = x Wᵀ + b and dx = dy W, for every way a weight is held.

use incise::base::{DType, Float};
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::cuda::linear as cuda;
use incise::ops::linear;
use incise::tensor::{Layout, Precision, Tensor, Weight};

use crate::support::budget::{self, Op, inner, inner_abs};
use crate::support::toy::{Draw, Held, PLAIN, Part, all_held, cast, weight};
use crate::support::twin;

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

/// The weight's elements as they lie, its type, and the distances between rows and columns.
struct Lying {
    elem: Elem,
    layout: Layout,
}

impl Linear {
    /// With x, dy, dx in elements of one type and W in those of another.
    fn rounded(mut self, elem: Elem, lying: &Lying) -> Linear {
        let round = |x: &Vec<f64>| twin::rounded(elem, x);
        (self.x, self.dy, self.dx) = (round(&self.x), round(&self.dy), self.dx.as_ref().map(round));
        self.values = twin::rounded(lying.elem, &self.values);
        self
    }

    fn kernels(&self, engine: &Engine, elem: Elem, lying: &Lying) -> Vec<Vec<f64>> {
        let (n, [out, inner]) = (self.n, self.w.dims());
        let (rows, columns) = match lying.layout {
            Layout::OutIn => (inner, 1),
            Layout::InOut => (1, out),
        };
        let mut stored = vec![0.0; out * inner];
        for (i, &value) in self.values.iter().enumerate() {
            stored[i / inner * rows + i % inner * columns] = value;
        }
        let w = twin::up(engine, lying.elem, &stored);
        let b = twin::up(engine, Elem::F32, self.b.as_ref().unwrap_or(&vec![]));
        let (x, dy) = (twin::up(engine, elem, &self.x), twin::up(engine, elem, &self.dy));
        let mut y = engine.array(elem, n * out).unwrap();
        let stale = vec![f64::NAN; n * inner];
        let mut dx = twin::up(engine, elem, self.dx.as_ref().unwrap_or(&stale));
        let (row_stride, col_stride) = (rows, columns);
        let w = cuda::Matrix { w: &w, out, inner, row_stride, col_stride };
        cuda::forward(engine, &x, w, self.b.is_some().then_some(&b), &mut y);
        cuda::backward(engine, &dy, w, &mut dx, self.dx.is_some());
        [y, dx].iter().map(twin::down).collect()
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::linear::kernels") else { return };
    let shapes = [[0, 5, 7], [1, 1, 1], [1, 131, 67], [7, 129, 131], [65, 64, 96], [130, 5, 7]];
    for (elem, of) in [
        (Elem::F32, Elem::F32),
        (Elem::F32, Elem::F16),
        (Elem::F32, Elem::BF16),
        (Elem::BF16, Elem::BF16),
    ] {
        for layout in [Layout::OutIn, Layout::InOut] {
            for shape in shapes {
                let lying = Lying { elem: of, layout };
                let name = format!("linear {elem:?} × {of:?} {layout:?}, {shape:?}");
                let inputs =
                    |draw: &mut Draw| Linear::draw(draw, shape, PLAIN).rounded(elem, &lying);
                let run = |case: &Linear, engine: &Engine| case.kernels(engine, elem, &lying);
                budget::kernel(&name, &engines, &[elem; 2], inputs, run);
            }
        }
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
