//! Activations, plain and gated, forward and backward.

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::ops::act::{self, Act};
use incise::ops::cuda::act as cuda;
use incise::tensor::{Precision, Tensor};

use crate::support::budget::{self, Op, U64, along, inner, inner_abs};
use crate::support::toy::{Draw, Fill, cast, exp, tanh};
use crate::support::twin;

/// (case, [N, F], inputs).
const CASES: &[(&str, [usize; 2], Fill)] = &[
    ("no row", [0, 7], Fill::Normal),
    ("one row, one column", [1, 1], Fill::Normal),
    ("not a multiple of anything", [7, 129], Fill::Normal),
    ("GPT-2 small", [5, 3072], Fill::Normal),
    ("wider than a block", [3, 16_387], Fill::Normal),
    ("near zero", [7, 129], Fill::Wide(1e-4)),
    ("saturated", [7, 129], Fill::Wide(1e2)),
];

const ACTS: [Act; 4] = [Act::Relu, Act::Gelu, Act::GeluTanh, Act::Silu];

struct Case {
    act: Act,
    shape: [usize; 2],
    up: Vec<f64>,
    gate: Option<Vec<f64>>,
    dkey: Vec<f64>,
}

impl Case {
    fn draw(draw: &mut Draw, act: Act, gated: bool, shape: [usize; 2], fill: Fill) -> Case {
        let n = shape[0] * shape[1];
        let (up, gate) = (draw.fill(fill, n), gated.then(|| draw.fill(fill, n)));
        Case { act, shape, up, gate, dkey: draw.normal(n) }
    }

    fn key(&self, precision: Precision, up: &[f64], gate: Option<&[f64]>) -> Vec<f64> {
        let tensor = |values: &[f64]| Tensor::of(precision, &self.shape, values);
        let mut key = tensor(&vec![f64::NAN; up.len()]);
        act::forward(self.act, &tensor(up), gate.map(tensor).as_ref(), &mut key);
        key.to_f64()
    }

    /// dup, and dgate or nothing.
    fn gradients(&self, precision: Precision) -> [Vec<f64>; 2] {
        let tensor = |values: &Vec<f64>| Tensor::of(precision, &self.shape, values);
        let mut dup = tensor(&self.dkey);
        let gate = self.gate.as_ref().map(tensor);
        let mut dgate = tensor(&vec![f64::NAN; self.up.len()]);
        let gates = gate.as_ref().map(|g| (g, &mut dgate));
        act::backward(self.act, &tensor(&self.up), gates, &mut dup);
        [dup.to_f64(), if gate.is_some() { dgate.to_f64() } else { Vec::new() }]
    }
}

/// a(x) and a'(x), each written on its own.
fn plain<T: Float>(act: Act, x: T) -> (T, T) {
    let (one, half) = (T::of(1.0), T::of(0.5));
    match act {
        Act::Relu => (x.max(T::default()), if x > T::default() { one } else { T::default() }),
        Act::Silu => {
            let e = exp(-x);
            let s = one / (one + e);
            (x / (one + e), s + x * s * (one - s))
        }
        Act::Gelu => {
            let erf = T::of(libm::erf(x.f64() * std::f64::consts::FRAC_1_SQRT_2));
            let below = half * (one + erf);
            let density = T::of((0.5 / std::f64::consts::PI).sqrt()) * exp(-half * x * x);
            (x * below, below + x * density)
        }
        Act::GeluTanh => {
            let c = T::of((2.0 / std::f64::consts::PI).sqrt());
            let t = tanh(c * (x + T::of(0.044715) * (x * x * x)));
            let slope = c * (one + T::of(3.0 * 0.044715) * (x * x));
            (half * x * (one + t), half * (one + t) + half * x * ((one - t * t) * slope))
        }
    }
}

impl Op for Case {
    const OUTPUTS: &'static [&'static str] = &["key", "dup", "dgate"];

    fn plain<T: Float>(&self) -> Vec<Vec<T>> {
        let (up, dkey) = (cast::<T>(&self.up), cast::<T>(&self.dkey));
        let [mut key, mut dup, mut dgate] = [const { Vec::new() }; 3];
        for i in 0..up.len() {
            match self.gate.as_ref().map(|g| plain(self.act, T::of(g[i]))) {
                None => {
                    let (value, slope) = plain(self.act, up[i]);
                    key.push(value);
                    dup.push(dkey[i] * slope);
                }
                Some((value, slope)) => {
                    key.push(value * up[i]);
                    dup.push(dkey[i] * value);
                    dgate.push(dkey[i] * up[i] * slope);
                }
            }
        }
        vec![key, dup, dgate]
    }

    fn ours(&self, precision: Precision) -> Vec<Vec<f64>> {
        let [dup, dgate] = self.gradients(precision);
        vec![self.key(precision, &self.up, self.gate.as_deref()), dup, dgate]
    }
}

impl Case {
    /// With inputs in elements of a type.
    fn rounded(mut self, elem: Elem) -> Case {
        let round = |x: &Vec<f64>| twin::rounded(elem, x);
        (self.up, self.gate, self.dkey) =
            (round(&self.up), self.gate.as_ref().map(round), round(&self.dkey));
        self
    }

    /// How far key, dup and dgate may be off besides: of gelu, by what `act.cu` says of erfcf.
    fn besides(&self) -> Vec<f64> {
        let unit = if self.act == Act::Gelu { f64::powi(2.0, -21) } else { 0.0 };
        let mut most = vec![0.0; 3];
        for (i, (up, d)) in self.up.iter().zip(&self.dkey).enumerate() {
            let x = self.gate.as_ref().map_or(*up, |gate| gate[i]);
            let slope = unit * 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let (value, up, d) = (x.abs() * slope, up.abs(), d.abs());
            let off = match self.gate {
                None => [value, d * slope, 0.0],
                Some(_) => [value * up, d * value, d * up * slope],
            };
            most.iter_mut().zip(off).for_each(|(most, off)| *most = off.max(*most));
        }
        most
    }

    fn kernels(&self, engine: &Engine, elem: Elem) -> Vec<Vec<f64>> {
        let len = self.up.len();
        let up = twin::up(engine, elem, &self.up);
        let gate = self.gate.as_ref().map(|g| twin::up(engine, elem, g));
        let [mut key, mut dgate] =
            [len, if gate.is_some() { len } else { 0 }].map(|len| engine.array(elem, len).unwrap());
        let mut dkey = twin::up(engine, elem, &self.dkey);
        cuda::forward(engine, self.act, &up, gate.as_ref(), &mut key);
        let gates = gate.as_ref().map(|g| (g, &mut dgate));
        cuda::backward(engine, self.act, &up, gates, &mut dkey);
        [key, dkey, dgate].iter().map(twin::down).collect()
    }
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::act::kernels") else { return };
    for &(case, shape, fill) in CASES {
        for act in ACTS {
            for gated in [false, true] {
                for elem in [Elem::F32, Elem::BF16] {
                    let name = format!("act {act:?} {elem:?}, gated {gated}, {case}");
                    let draw =
                        |draw: &mut Draw| Case::draw(draw, act, gated, shape, fill).rounded(elem);
                    let run = |case: &Case, engine: &Engine| case.kernels(engine, elem);
                    let (outputs, besides) = ([elem; 3], Case::besides);
                    budget::kernel_besides(&name, &engines, &outputs, draw, run, besides);
                }
            }
        }
    }
}

#[test]
fn cases() {
    for &(case, shape, fill) in CASES {
        for act in ACTS {
            for gated in [false, true] {
                let name = format!("act {act:?}, gated {gated}, {case}");
                budget::hold(&name, |draw| Case::draw(draw, act, gated, shape, fill));
            }
        }
    }
}

#[test]
fn backward_is_the_slope() {
    for act in ACTS {
        for gated in [false, true] {
            let mut draw = Draw::new("act, slope", false);
            // No number is as near to relu's kink as the two steps go.
            let case = Case::draw(&mut draw, act, gated, [3, 37], Fill::Normal);
            let (v, w) = (draw.normal(case.up.len()), draw.normal(case.up.len()));
            let loss = |t: f64| {
                let gate = case.gate.as_ref().map(|g| along(g, t, &w));
                let key = case.key(Precision::F64, &along(&case.up, t, &v), gate.as_deref());
                (inner(&case.dkey, &key), inner_abs(&case.dkey, &key))
            };
            let [dup, dgate] = case.gradients(Precision::F64);
            let slope = inner(&dup, &v) + if gated { inner(&dgate, &w) } else { 0.0 };
            // A sum of N·F numbers, each of at most 16 roundings.
            let noise = (3 * 37 + 16) as f64 * U64 * loss(0.0).1;
            budget::central(&format!("act {act:?}, gated {gated}"), slope, noise, |t| loss(t).0);
        }
    }
}
