//! Rotary positions: both pairings, whole heads and parts of them, forth and back.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::cuda::rope as cuda;
use incise::ops::rope::{self, Angles, Pairing};
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, inner, inner_abs};
use crate::support::toy::{Draw, cast};
use crate::support::twin;

/// (case, N, heads, E, R/2).
const CASES: &[(&str, [usize; 4])] = &[
    ("no row", [0, 3, 8, 4]),
    ("one pair", [1, 1, 2, 1]),
    ("nothing turns", [5, 3, 7, 0]),
    ("part of a head turns", [7, 3, 11, 3]),
    ("GPT-J", [5, 16, 256, 32]),
    ("Llama", [33, 8, 64, 32]),
];

struct Turn {
    n: usize,
    heads: usize,
    width: usize,
    half: usize,
    pairing: Pairing,
    back: bool,
    x: Vec<f64>,
    cos: Vec<f64>,
    sin: Vec<f64>,
}

impl Turn {
    fn draw(draw: &mut Draw, sizes: [usize; 4], pairing: Pairing, back: bool) -> Turn {
        let [n, heads, width, half] = sizes;
        let angles = draw.normal(n * half);
        let table = |turn: fn(f64) -> f64| angles.iter().map(|&a| turn(a) as f32 as f64).collect();
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        Turn { n, heads, width, half, pairing, back, x: draw.normal(n * heads * width), cos, sin }
    }

    fn turned(&self, precision: Precision, x: &[f64], back: bool) -> Vec<f64> {
        let table = |values| Tensor::of(precision, &[self.n, self.half], values);
        let (cos, sin) = (table(&self.cos), table(&self.sin));
        let mut x = Tensor::of(precision, &[self.n, self.heads * self.width], x);
        rope::rotate(&mut x, self.heads, &Angles { cos, sin, pairing: self.pairing }, back);
        x.to_f64()
    }
}

impl Op for Turn {
    const OUTPUTS: &'static [&'static str] = &["x"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let mut x = cast::<T>(&self.x);
        let width = self.width;
        for head in 0..self.n * self.heads {
            for i in 0..self.half {
                let (a, b) = match self.pairing {
                    Pairing::Halves => (i, i + self.half),
                    Pairing::Adjacent => (2 * i, 2 * i + 1),
                };
                let (a, b) = (head * width + a, head * width + b);
                let at = head / self.heads * self.half + i;
                let (cos, sin) = (T::of(self.cos[at]), T::of(self.sin[at]));
                let sin = if self.back { -sin } else { sin };
                (x[a], x[b]) = (cos * x[a] - sin * x[b], sin * x[a] + cos * x[b]);
            }
        }
        vec![x]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        vec![self.turned(precision, &self.x, self.back)]
    }
}

impl Turn {
    fn kernel(&self, engine: &Engine, elem: Elem) -> Vec<Vec<f64>> {
        let &Turn { heads, width, half, .. } = self;
        let [cos, sin] = [&self.cos, &self.sin].map(|t| twin::up(engine, Elem::F32, t));
        let mut x = twin::up(engine, elem, &self.x);
        let (cos, sin, pairing) = (&cos, &sin, self.pairing);
        let angles = cuda::DeviceAngles { cos, sin, half, pairing };
        cuda::rotate(engine, &mut x, [heads, width], angles, self.back);
        vec![twin::down(&x)]
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::rope::kernels") else { return };
    for &(case, sizes) in CASES {
        for pairing in [Pairing::Halves, Pairing::Adjacent] {
            for (back, elem) in [(false, Elem::F32), (true, Elem::F32), (false, Elem::BF16)] {
                let name = format!("rope {pairing:?} {elem:?}, back {back}, {case}");
                let inputs = |draw: &mut Draw| {
                    let turn = Turn::draw(draw, sizes, pairing, back);
                    Turn { x: twin::rounded(elem, &turn.x), ..turn }
                };
                let run = |turn: &Turn, engine: &Engine| turn.kernel(engine, elem);
                budget::kernel(&name, &engines, &[elem], inputs, run);
            }
        }
    }
}

#[test]
fn cases() {
    for &(case, sizes) in CASES {
        for pairing in [Pairing::Halves, Pairing::Adjacent] {
            for back in [false, true] {
                let name = format!("rope {pairing:?}, back {back}, {case}");
                budget::hold(&name, |draw| Turn::draw(draw, sizes, pairing, back));
            }
        }
    }
}

#[test]
fn back_is_the_adjoint() {
    for pairing in [Pairing::Halves, Pairing::Adjacent] {
        let mut draw = Draw::new("rope, adjoint", false);
        let turn = Turn::draw(&mut draw, [7, 3, 11, 3], pairing, false);
        let (u, v) = (draw.normal(turn.x.len()), &turn.x);
        let jv = turn.turned(Precision::F64, v, false);
        let sides = [inner(&u, &jv), inner(&turn.turned(Precision::F64, &u, true), v)];
        // A row of J has at most two elements, each at most 1: |J v| ≤ |v| + |its partner|.
        let top = |x: &[f64]| x.iter().fold(0.0f64, |a, x| a.max(x.abs()));
        let size = inner_abs(&u, v) + top(v) * u.iter().map(|u| u.abs()).sum::<f64>();
        budget::adjoint(&format!("rope {pairing:?}"), sides, 2 * v.len(), size);
    }
}
