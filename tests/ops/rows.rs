//! Reading and adding rows.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::cuda::rows as cuda;
use incise::ops::rows::{self, Index};
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, inner, inner_abs};
use crate::support::toy::{Draw, cast};
use crate::support::twin;

/// (case, [N, D], rows chosen).
const CASES: &[(&str, [usize; 2], usize)] = &[
    ("nothing chosen", [5, 7], 0),
    ("one row, one column", [1, 1], 1),
    ("not a multiple of anything", [7, 129], 5),
    ("rows many times over", [3, 13], 41),
    ("GPT-2 small", [64, 768], 16),
];

/// Of `scale`; exact in f32.
const FACTOR: f64 = -0.8125;

/// Of `cap`; exact in f32.
const CAP: f64 = 0.75;

struct Rows {
    d: usize,
    chosen: Vec<usize>,
    x: Vec<f64>,
    y: Vec<f64>,    // one a chosen row
    more: Vec<f64>, // one a row of x
}

impl Rows {
    fn draw(draw: &mut Draw, [n, d]: [usize; 2], chosen: usize) -> Rows {
        let chosen: Vec<usize> = (0..chosen).map(|_| draw.below(n)).collect();
        let (x, y) = (draw.normal(n * d), draw.normal(chosen.len() * d));
        Rows { d, chosen, x, y, more: draw.normal(n * d) }
    }
}

impl Op for Rows {
    const OUTPUTS: &'static [&'static str] =
        &["gather", "scatter_add", "add", "put", "scale", "cap"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let d = self.d;
        let (x, y, more) = (cast::<T>(&self.x), cast::<T>(&self.y), cast::<T>(&self.more));
        let gathered = self.chosen.iter().flat_map(|&row| (0..d).map(move |j| row * d + j));
        let mut scattered = x.clone();
        for (i, &row) in self.chosen.iter().enumerate() {
            for j in 0..d {
                scattered[row * d + j] += y[i * d + j];
            }
        }
        let added = (0..x.len()).map(|i| x[i] + more[i]).collect();
        // All rows but the first, behind the first.
        let put = more.iter().take(d).chain(&x[d..]).copied().collect();
        let scaled = x.iter().map(|&x| x * T::of(FACTOR)).collect();
        let c = T::of(CAP);
        let capped = x.iter().map(|&x| c * (x / c).tanh()).collect();
        vec![gathered.map(|at| x[at]).collect(), scattered, added, put, scaled, capped]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let tensor = |x: &[f64]| Tensor::of(precision, &[x.len() / self.d, self.d], x);
        let chosen = Index::new(&precision.into(), &self.chosen[..]);
        let mut gathered = tensor(&vec![f64::NAN; self.y.len()]);
        rows::gather(&tensor(&self.x), &chosen, &mut gathered);
        let (mut scattered, mut added) = (tensor(&self.x), tensor(&self.x));
        let (n, mut put) = (self.x.len() / self.d, tensor(&self.more));
        rows::scatter_add(&mut scattered, &chosen, &tensor(&self.y));
        rows::add(&mut added, &tensor(&self.more));
        rows::put(&tensor(&self.x), 1..n, &mut put, 1);
        let mut scaled = tensor(&self.x);
        rows::scale(&mut scaled, FACTOR);
        let mut capped = tensor(&self.x);
        rows::cap(&mut capped, CAP);
        [gathered, scattered, added, put, scaled, capped].iter().map(Tensor::to_f64).collect()
    }
}

impl Rows {
    fn kernels(&self, engine: &Engine, elem: Elem) -> Vec<Vec<f64>> {
        let rows: Vec<f64> = self.chosen.iter().map(|&row| row as f64).collect();
        let rows = twin::up(engine, Elem::I32, &rows);
        let single = |x: &[f64]| twin::up(engine, Elem::F32, x);
        let (x, mut scattered, mut added) = (single(&self.x), single(&self.x), single(&self.x));
        let (y, more) = (twin::up(engine, elem, &self.y), twin::up(engine, elem, &self.more));
        let (narrow, mut put) =
            (twin::up(engine, elem, &self.x), twin::up(engine, elem, &self.more));
        let mut gathered = engine.array(elem, self.y.len()).unwrap();
        let whole = [self.d, 0, self.d];
        cuda::gather(engine, &narrow, whole, &rows, &mut gathered);
        cuda::scatter_add(engine, &mut scattered, whole, &rows, &y);
        cuda::add(engine, &mut added, &more);
        cuda::put(engine, &x, self.d..self.x.len(), &mut put, self.d);
        let mut scaled = single(&self.x);
        cuda::scale(engine, &mut scaled, FACTOR as f32);
        let mut capped = single(&self.x);
        cuda::cap(engine, &mut capped, CAP as f32);
        [gathered, scattered, added, put, scaled, capped].iter().map(twin::down).collect()
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::rows::kernels") else { return };
    for &(case, shape, chosen) in CASES {
        for elem in [Elem::F32, Elem::BF16] {
            let inputs = |draw: &mut Draw| {
                let rows = Rows::draw(draw, shape, chosen);
                let (y, more) = (twin::rounded(elem, &rows.y), twin::rounded(elem, &rows.more));
                Rows { y, more, ..rows }
            };
            let run = |rows: &Rows, engine: &Engine| rows.kernels(engine, elem);
            let outputs = [elem, Elem::F32, Elem::F32, elem, Elem::F32, Elem::F32];
            budget::kernel(&format!("rows {elem:?}, {case}"), &engines, &outputs, inputs, run);
        }
    }
}

#[test]
fn cases() {
    for &(case, shape, chosen) in CASES {
        budget::hold(&format!("rows, {case}"), |draw| Rows::draw(draw, shape, chosen));
    }
}

#[test]
fn gather_and_scatter_are_adjoint() {
    let mut case = Rows::draw(&mut Draw::new("rows, adjoint", false), [7, 13], 29);
    let v = std::mem::replace(&mut case.x, vec![0.0; 7 * 13]);
    let [_, jtu, ..] = &case.ours(Precision::F64)[..] else { panic!("several outputs") };
    let (zero, jtu) = (std::mem::replace(&mut case.x, v), jtu.clone());
    assert!(zero.iter().all(|&x| x == 0.0));
    let jv = &case.ours(Precision::F64)[0];
    let sides = [inner(&case.y, jv), inner(&jtu, &case.x)];
    budget::adjoint("rows", sides, 29 * 13, inner_abs(&case.y, jv));
}
