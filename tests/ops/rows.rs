//! Reading and adding rows.

use incise::base::Float;
use incise::ops::rows;
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, inner, inner_abs};
use crate::support::toy::{Draw, cast};

/// (case, [N, D], rows chosen).
const CASES: &[(&str, [usize; 2], usize)] = &[
    ("nothing chosen", [5, 7], 0),
    ("one row, one column", [1, 1], 1),
    ("not a multiple of anything", [7, 129], 5),
    ("rows many times over", [3, 13], 41),
    ("GPT-2 small", [64, 768], 16),
];

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
    const OUTPUTS: &'static [&'static str] = &["gather", "scatter_add", "add"];

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
        vec![gathered.map(|at| x[at]).collect(), scattered, added]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let tensor = |x: &[f64]| Tensor::of(precision, &[x.len() / self.d, self.d], x);
        let mut gathered = tensor(&vec![f64::NAN; self.y.len()]);
        rows::gather(&tensor(&self.x), &self.chosen, &mut gathered);
        let (mut scattered, mut added) = (tensor(&self.x), tensor(&self.x));
        rows::scatter_add(&mut scattered, &self.chosen, &tensor(&self.y));
        rows::add(&mut added, &tensor(&self.more));
        [gathered, scattered, added].iter().map(Tensor::to_f64).collect()
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
    let [_, jtu, _] = &case.ours(Precision::F64)[..] else { panic!("three outputs") };
    let (zero, jtu) = (std::mem::replace(&mut case.x, v), jtu.clone());
    assert!(zero.iter().all(|&x| x == 0.0));
    let jv = &case.ours(Precision::F64)[0];
    let sides = [inner(&case.y, jv), inner(&jtu, &case.x)];
    budget::adjoint("rows", sides, 29 * 13, inner_abs(&case.y, jv));
}
