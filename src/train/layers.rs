//! Layers that editors' networks are made of, forward and backward side by side. Parameters are
//! those of the framework by name, shape and initialisation.
//!
//! ```text
//! dense          y = x Wᵀ + b                      W (out, in), b (out) uniform within 1/√in
//! normed dense   the same with W = g ∘ v/‖v‖       by rows; g (out, 1) begins as ‖v‖
//!                dg = ⟨dW, v⟩/‖v‖    dv = g/‖v‖ (dW − ⟨dW, v⟩/‖v‖² v)
//! ```
//!
//! Source of the second: Salimans, Kingma 2016, arXiv:1602.07868.

use super::parameters::Parameters;
use crate::base::Rng;
use crate::ops::rows::Index;
use crate::ops::{linear, weight_gradient};
use crate::tensor::{Tensor, Weight};

/// A dense layer, by the numbers of its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    w: usize,
    b: usize,
}

/// One whose rows have a length of their own.
#[derive(Clone, Copy, Debug)]
pub struct NormedDense {
    g: usize,
    v: usize,
    b: usize,
}

/// So many numbers uniform within ±bound.
pub fn uniform(rng: &mut Rng, n: usize, bound: f64) -> Vec<f64> {
    (0..n).map(|_| bound * (2.0 * rng.uniform() - 1.0)).collect()
}

/// Adds Σ_t dy_t x_tᵀ to the gradient of parameter w.
pub fn add_gradient(parameters: &mut Parameters, w: usize, dy: &Tensor, x: &Tensor) {
    weight_gradient::accumulate(dy, x, &cuts(x), parameters.gradient_mut(w));
}

fn cuts(x: &Tensor) -> Index {
    Index::new(&x.compute(), weight_gradient::cuts([x.shape()[0]]))
}

/// Adds Σ_t dy_t to the gradient of parameter b (1, out).
pub fn add_sum(parameters: &mut Parameters, b: usize, dy: &Tensor) {
    let precision = parameters.precision();
    let into = parameters.gradient_mut(b);
    let mut sum = into.to_f64();
    for row in dy.to_f64().chunks(sum.len()) {
        sum.iter_mut().zip(row).for_each(|(sum, dy)| *sum += dy);
    }
    *into = Tensor::of(precision, into.shape(), &sum);
}

/// Each element of a tensor through a function.
pub fn map(x: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
    let values: Vec<f64> = x.to_f64().into_iter().map(f).collect();
    Tensor::of(x.precision(), x.shape(), &values)
}

/// Each pair of elements of two tensors through a function.
pub fn zip(x: &Tensor, y: &Tensor, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let pairs = x.to_f64().into_iter().zip(y.to_f64());
    let values: Vec<f64> = pairs.map(|(x, y)| f(x, y)).collect();
    Tensor::of(x.precision(), x.shape(), &values)
}

impl Dense {
    /// Adds one to the parameters.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        [inner, out]: [usize; 2],
        (rate, rng): (f64, &mut Rng),
    ) -> Dense {
        let bound = 1.0 / (inner as f64).sqrt();
        let w = uniform(rng, out * inner, bound);
        let b = uniform(rng, out, bound);
        Dense {
            w: parameters.add(format!("{name}.weight"), &[out, inner], &w, Some(rate)),
            b: parameters.add(format!("{name}.bias"), &[out], &b, Some(rate)),
        }
    }

    /// y (N, out) of x (N, in).
    pub fn forward(&self, parameters: &Parameters, x: &Tensor) -> Tensor {
        let w = parameters.weight(self.w);
        let mut y = x.like(&[x.shape()[0], w.dims()[0]]);
        linear::forward(x, w, Some(parameters.value(self.b)), &mut y);
        y
    }

    /// dx of dy, and the gradients of W and b.
    pub fn backward(&self, parameters: &mut Parameters, x: &Tensor, dy: &Tensor) -> Tensor {
        add_gradient(parameters, self.w, dy, x);
        add_sum(parameters, self.b, dy);
        let mut dx = x.like(x.shape());
        linear::backward(dy, parameters.weight(self.w), &mut dx, false);
        dx
    }
}

impl NormedDense {
    /// Adds one to the parameters.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        [inner, out]: [usize; 2],
        (rate, rng): (f64, &mut Rng),
    ) -> NormedDense {
        let bound = 1.0 / (inner as f64).sqrt();
        let v = uniform(rng, out * inner, bound);
        let b = uniform(rng, out, bound);
        let g: Vec<f64> = v.chunks(inner).map(length).collect();
        NormedDense {
            b: parameters.add(format!("{name}.bias"), &[out], &b, Some(rate)),
            g: parameters.add(format!("{name}.weight_g"), &[out, 1], &g, Some(rate)),
            v: parameters.add(format!("{name}.weight_v"), &[out, inner], &v, Some(rate)),
        }
    }

    /// W, as the parameters are now.
    fn weight(&self, parameters: &Parameters) -> Weight {
        let (v, g) = (parameters.value(self.v), parameters.value(self.g).to_f64());
        let [out, inner] = v.dims();
        let mut w = v.to_f64();
        for (row, g) in w.chunks_mut(inner).zip(g) {
            let factor = g / length(row);
            row.iter_mut().for_each(|w| *w *= factor);
        }
        Weight::own(Tensor::of(parameters.precision(), &[out, inner], &w))
    }

    /// y (N, out) of x (N, in).
    pub fn forward(&self, parameters: &Parameters, x: &Tensor) -> Tensor {
        let w = self.weight(parameters);
        let mut y = x.like(&[x.shape()[0], w.dims()[0]]);
        linear::forward(x, &w, Some(parameters.value(self.b)), &mut y);
        y
    }

    /// dx of dy, and the gradients of g, v and b.
    pub fn backward(&self, parameters: &mut Parameters, x: &Tensor, dy: &Tensor) -> Tensor {
        let w = self.weight(parameters);
        let mut dx = x.like(x.shape());
        linear::backward(dy, &w, &mut dx, false);
        add_sum(parameters, self.b, dy);
        let mut dw = x.like(&w.dims());
        weight_gradient::accumulate(dy, x, &cuts(x), &mut dw);
        let [_, inner] = w.dims();
        let (v, g) = (parameters.value(self.v).to_f64(), parameters.value(self.g).to_f64());
        let (mut dv, mut dg) =
            (parameters.gradient(self.v).to_f64(), parameters.gradient(self.g).to_f64());
        let dw = dw.to_f64();
        let rows = dw.chunks(inner).zip(v.chunks(inner)).zip(dv.chunks_mut(inner));
        for (((dw, v), dv), (dg, g)) in rows.zip(dg.iter_mut().zip(&g)) {
            let norm = length(v);
            let along = dw.iter().zip(v).map(|(dw, v)| dw * v).sum::<f64>() / norm;
            *dg += along;
            for ((dv, dw), v) in dv.iter_mut().zip(dw).zip(v) {
                *dv += g / norm * (dw - along / norm * v);
            }
        }
        let precision = parameters.precision();
        for (i, values) in [(self.v, dv), (self.g, dg)] {
            let into = parameters.gradient_mut(i);
            *into = Tensor::of(precision, into.shape(), &values);
        }
        dx
    }
}

fn length(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().sqrt()
}
