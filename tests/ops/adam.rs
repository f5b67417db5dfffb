//! Adam: several steps on a tensor of parameters.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::adam::{self, AdamMoments};
use incise::tensor::{Compute, Precision, Tensor};

use crate::support::budget::{self, Op};
use crate::support::toy::{Draw, cast};
use crate::support::twin;

const STEPS: usize = 4;

/// (case, numbers, the size of their gradients).
const CASES: &[(&str, usize, f64)] = &[
    ("no number", 0, 1.0),
    ("one number", 1, 1.0),
    ("not a multiple of anything", 521, 1.0),
    ("gradients near ε", 131, 1e-8),
    ("no gradient", 67, 0.0),
];

struct Case {
    lr: f64,
    x: Vec<f64>,
    g: Vec<Vec<f64>>, // of each step
}

impl Case {
    fn draw(draw: &mut Draw, &(_, n, size): &(&str, usize, f64)) -> Case {
        let mut gradient = || draw.normal(n).iter().map(|g| f64::from((size * g) as f32)).collect();
        let g = (0..STEPS).map(|_| gradient()).collect();
        Case { lr: 0.125, x: draw.normal(n), g }
    }

    fn run(&self, compute: &Compute) -> Vec<Vec<f64>> {
        let tensor = |x: &[f64]| Tensor::of(compute, &[x.len()], x);
        let mut x = tensor(&self.x);
        let mut moments = AdamMoments::new(&x);
        for g in &self.g {
            adam::step(self.lr, &tensor(g), &mut moments, &mut x);
        }
        assert_eq!(moments.steps, STEPS);
        vec![x.to_f64(), moments.m.to_f64(), moments.v.to_f64()]
    }
}

impl Op for Case {
    const OUTPUTS: &'static [&'static str] = &["x", "m", "v"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let mut x = cast::<T>(&self.x);
        let mut m = vec![T::of(0.0); x.len()];
        let mut v = m.clone();
        for (g, n) in self.g.iter().zip(1..) {
            for (i, g) in cast::<T>(g).into_iter().enumerate() {
                m[i] = T::of(0.9) * m[i] + T::of(1.0 - 0.9) * g;
                v[i] = T::of(0.999) * v[i] + T::of(1.0 - 0.999) * (g * g);
                let mean = m[i] / T::of(1.0 - 0.9f64.powi(n));
                let root = (v[i] / T::of(1.0 - 0.999f64.powi(n))).sqrt();
                x[i] -= T::of(self.lr) * mean / (root + T::of(1e-8));
            }
        }
        vec![x, m, v]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        self.run(&precision.into())
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::adam::kernels") else { return };
    for row in CASES.iter().filter(|row| row.1 > 0) {
        let name = format!("adam, {}", row.0);
        let inputs = |draw: &mut Draw| Case::draw(draw, row);
        let run = |case: &Case, engine: &Engine| case.run(&engine.clone().into());
        budget::kernel(&name, &engines, &[Elem::F32; 3], inputs, run);
    }
}

#[test]
fn cases() {
    for row in CASES {
        budget::hold(&format!("adam, {}", row.0), |draw| Case::draw(draw, row));
    }
}
