//! Adam: several steps on a tensor of parameters.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::adam::{self, AdamMoments, AdamRule};
use incise::tensor::{Compute, Precision, Tensor};

use crate::support::budget::{self, Op};
use crate::support::toy::{Draw, cast};
use crate::support::twin;

const STEPS: usize = 4;

/// (case, numbers, the size of their gradients, weight decay, how far they may go).
type Row = (&'static str, usize, f64, f64, Option<f64>);

const CASES: &[Row] = &[
    ("no number", 0, 1.0, 0.0, None),
    ("one number", 1, 1.0, 0.0, None),
    ("not a multiple of anything", 521, 1.0, 0.0, None),
    ("gradients near ε", 131, 1e-8, 0.0, None),
    ("no gradient", 67, 0.0, 0.0, None),
    ("weight decay", 269, 1.0, 0.75, None),
    ("a bound", 283, 1.0, 0.0, Some(0.25)),
    ("more than one part, decay and a bound", (1 << 14) + 77, 1.0, 0.125, Some(0.3125)),
];

struct Case {
    lr: f64,
    decay: f64,
    radius: Option<f64>,
    x: Vec<f64>,
    g: Vec<Vec<f64>>, // of each step
}

impl Case {
    fn draw(draw: &mut Draw, &(_, n, size, decay, radius): &Row) -> Case {
        let mut gradient = || draw.normal(n).iter().map(|g| f64::from((size * g) as f32)).collect();
        let g = (0..STEPS).map(|_| gradient()).collect();
        Case { lr: 0.125, decay, radius, x: draw.normal(n), g }
    }

    fn run(&self, compute: &Compute) -> Vec<Vec<f64>> {
        let tensor = |x: &[f64]| Tensor::of(compute, &[x.len()], x);
        let mut x = tensor(&self.x);
        let mut moments = AdamMoments::new(&x);
        let centre = x.clone();
        let bound = self.radius.map(|radius| (&centre, radius));
        let rule = AdamRule { lr: self.lr, weight_decay: self.decay, bound };
        for g in &self.g {
            adam::step(&rule, &tensor(g), &mut moments, &mut x);
        }
        assert_eq!(moments.steps, STEPS);
        vec![x.to_f64(), moments.m.to_f64(), moments.v.to_f64()]
    }
}

impl Op for Case {
    const OUTPUTS: &'static [&'static str] = &["x", "m", "v"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let centre = cast::<T>(&self.x);
        let mut x = centre.clone();
        let mut m = vec![T::of(0.0); x.len()];
        let mut v = m.clone();
        for (g, n) in self.g.iter().zip(1..) {
            for (i, g) in cast::<T>(g).into_iter().enumerate() {
                let g = g + T::of(self.decay) * x[i];
                m[i] = T::of(0.9) * m[i] + T::of(1.0 - 0.9) * g;
                v[i] = T::of(0.999) * v[i] + T::of(1.0 - 0.999) * (g * g);
                let mean = m[i] / T::of(1.0 - 0.9f64.powi(n));
                let root = (v[i] / T::of(1.0 - 0.999f64.powi(n))).sqrt();
                x[i] -= T::of(self.lr) * mean / (root + T::of(1e-8));
                if let Some(radius) = self.radius.map(T::of) {
                    let [low, high] = [centre[i] - radius, centre[i] + radius];
                    x[i] = if x[i] < low { low } else { x[i] };
                    x[i] = if x[i] > high { high } else { x[i] };
                }
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
