//! A recurrent layer over a sequence, read in one direction; what it says at the end.
//!
//! ```text
//! a_t = W x_t + U h_{t−1} + b + b'        (4H): i, f, g, o one after the other
//! i, f, o ← σ     g ← tanh      c_t = f c_{t−1} + i g      h_t = o tanh c_t
//! back, from dh at the last:
//!   do = dh tanh c   dc += dh o (1 − tanh² c)   di = dc g   dg = dc i   df = dc c_{t−1}
//!   da = (di i(1−i), df f(1−f), dg (1−g²), do o(1−o))    dh ← Uᵀda    dc ← dc f
//!   dW = Σ da xᵀ    dU = Σ da h_{t−1}ᵀ    db = db' = Σ da    dx = Wᵀda
//! ```
//!
//! W (4H, E), U (4H, H), all uniform within 1/√H. Source: Hochreiter, Schmidhuber 1997; the
//! framework's form, with two biases.

use super::layers::{add_gradient, add_sum, uniform};
use super::parameters::Parameters;
use crate::base::Rng;
use crate::ops::linear;
use crate::tensor::Tensor;

/// The layer, by the numbers of its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Lstm {
    hidden: usize,
    w: usize,
    u: usize,
    b: [usize; 2],
}

/// A sequence that was read, for the way back.
pub struct LstmRead {
    x: Tensor, // (n, E), in the order in which it was read
    h: Tensor, // (n, H), before each token
    gates: Vec<[Vec<f64>; 4]>,
    cells: Vec<Vec<f64>>, // before the first, and after each
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Lstm {
    /// Adds one to the parameters; names end in `suffix`.
    pub fn new(
        parameters: &mut Parameters,
        (name, suffix): (&str, &str),
        [inner, hidden]: [usize; 2],
        (rate, rng): (f64, &mut Rng),
    ) -> Lstm {
        let bound = 1.0 / (hidden as f64).sqrt();
        let mut add = |what: &str, shape: &[usize]| {
            let values = uniform(rng, shape.iter().product(), bound);
            parameters.add(format!("{name}.{what}_l0{suffix}"), shape, &values, Some(rate))
        };
        Lstm {
            hidden,
            w: add("weight_ih", &[4 * hidden, inner]),
            u: add("weight_hh", &[4 * hidden, hidden]),
            b: [add("bias_ih", &[4 * hidden]), add("bias_hh", &[4 * hidden])],
        }
    }

    /// h (1, H) after the last row of x (n, E).
    pub fn forward(&self, parameters: &Parameters, x: Tensor) -> (LstmRead, Tensor) {
        let ([n, _], m) = (x.dims(), self.hidden);
        let mut read = x.like(&[n, 4 * m]);
        let bias = Some(parameters.value(self.b[0]));
        linear::forward(&x, parameters.weight(self.w), bias, &mut read);
        let mut h = x.like(&[1, m]);
        let mut before = x.like(&[0, m]);
        let (mut gates, mut cells) = (Vec::with_capacity(n), vec![vec![0.0; m]]);
        let mut a = x.like(&[1, 4 * m]);
        for t in 0..n {
            before.push_rows(&h);
            let bias = Some(parameters.value(self.b[1]));
            linear::forward(&h, parameters.weight(self.u), bias, &mut a);
            let a: Vec<f64> = a.to_f64().iter().zip(read.row_f64(t)).map(|(a, r)| a + r).collect();
            let gate = |k: usize, f: fn(f64) -> f64| -> Vec<f64> {
                a[k * m..(k + 1) * m].iter().map(|&a| f(a)).collect()
            };
            let now = [gate(0, sigmoid), gate(1, sigmoid), gate(2, f64::tanh), gate(3, sigmoid)];
            let [i, f, g, o] = &now;
            let last = &cells[t];
            let cell: Vec<f64> = (0..m).map(|j| f[j] * last[j] + i[j] * g[j]).collect();
            let said: Vec<f64> = (0..m).map(|j| o[j] * cell[j].tanh()).collect();
            h = Tensor::of(x.precision(), &[1, m], &said);
            gates.push(now);
            cells.push(cell);
        }
        (LstmRead { x, h: before, gates, cells }, h)
    }

    /// dx (n, E) from dh (1, H), and the gradients of the parameters.
    pub fn backward(&self, parameters: &mut Parameters, read: &LstmRead, dh: &Tensor) -> Tensor {
        let ([n, _], m) = (read.x.dims(), self.hidden);
        let precision = read.x.precision();
        let (mut dh, mut dc) = (dh.to_f64(), vec![0.0; m]);
        let mut rows = vec![0.0; n * 4 * m];
        for t in (0..n).rev() {
            let [i, f, g, o] = &read.gates[t];
            let da = &mut rows[t * 4 * m..(t + 1) * 4 * m];
            for j in 0..m {
                let said = read.cells[t + 1][j].tanh();
                dc[j] += dh[j] * o[j] * (1.0 - said * said);
                da[j] = dc[j] * g[j] * i[j] * (1.0 - i[j]);
                da[m + j] = dc[j] * read.cells[t][j] * f[j] * (1.0 - f[j]);
                da[2 * m + j] = dc[j] * i[j] * (1.0 - g[j] * g[j]);
                da[3 * m + j] = dh[j] * said * o[j] * (1.0 - o[j]);
                dc[j] *= f[j];
            }
            let da = Tensor::of(precision, &[1, 4 * m], da);
            let mut before = da.like(&[1, m]);
            linear::backward(&da, parameters.weight(self.u), &mut before, false);
            dh = before.to_f64();
        }
        let da = Tensor::of(precision, &[n, 4 * m], &rows);
        add_gradient(parameters, self.w, &da, &read.x);
        add_gradient(parameters, self.u, &da, &read.h);
        self.b.iter().for_each(|&b| add_sum(parameters, b, &da));
        let mut dx = read.x.like(read.x.shape());
        linear::backward(&da, parameters.weight(self.w), &mut dx, false);
        dx
    }
}
