//! Adam on one vector: Kingma, Ba 2015, arXiv:1412.6980, algorithm 1, β = (0.9, 0.999), ε = 1e-8.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²
//! θ ← θ − lr (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε)
//! ```

const BETA: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;

/// The moments of one vector.
pub struct Adam {
    lr: f64,
    t: i32,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Adam {
    /// At rest, for a vector of d elements.
    pub fn new(d: usize, lr: f64) -> Adam {
        Adam { lr, t: 0, m: vec![0.0; d], v: vec![0.0; d] }
    }

    /// One step of θ along the gradient g.
    pub fn step(&mut self, theta: &mut [f64], g: &[f64]) {
        self.t += 1;
        let [c1, c2] = BETA.map(|b| 1.0 - b.powi(self.t));
        for (i, theta) in theta.iter_mut().enumerate() {
            self.m[i] = BETA[0] * self.m[i] + (1.0 - BETA[0]) * g[i];
            self.v[i] = BETA[1] * self.v[i] + (1.0 - BETA[1]) * g[i] * g[i];
            *theta -= self.lr * (self.m[i] / c1) / ((self.v[i] / c2).sqrt() + EPS);
        }
    }
}
