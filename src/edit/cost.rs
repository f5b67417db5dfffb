//! What an edit takes, counted before it runs.

use super::training::memory::TrainingMemory;
use crate::linalg::least_squares::{Prior, Route};

/// Bytes, work and facts at a time; upper bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Bytes the mean fact takes while its value is searched, or it is trained on.
    pub bytes_a_fact: u64,
    /// Bytes that takes whatever the number of facts at a time.
    pub fixed_bytes: u64,
    /// How many facts of the mean size are searched, or trained on, at a time.
    pub at_a_time: u64,
    /// Bytes of a layer's solve, with all that is there beside it.
    pub solve_bytes: u64,
    /// The system a layer's solve has, for methods that solve one.
    pub system: Option<Route>,
    /// What training takes, for methods that train.
    pub training: Option<TrainingMemory>,
    /// Floating-point operations of all searches and solves, or of training.
    pub flop: f64,
}

/// The sizes of the solves of an edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Solves {
    /// F.
    pub f: usize,
    /// D.
    pub d: usize,
    /// Edited layers.
    pub layers: usize,
    /// All facts.
    pub facts: usize,
    /// Facts of a batch.
    pub batch: usize,
    /// Whether keys of finished batches are kept for later ones.
    pub learns: bool,
}

impl Solves {
    /// The route of a solve with a prior that is a matrix, and its bytes.
    pub fn with_matrix(&self, epsilon: f64) -> (Route, u64) {
        let matrix = || faer::Mat::zeros(0, 0);
        self.of(&Prior::Matrix(&matrix), epsilon, [0, 0])
    }

    /// The same in the null space of C: the prior is μI where nothing was learnt. U₀ may be nearly
    /// as wide as F, comes of an eigendecomposition, and meets K and X.
    pub fn in_null_space(&self, mu: f64) -> (Route, u64) {
        let square = self.f * self.f;
        let matrix = || faer::Mat::zeros(0, 0);
        let prior = if self.learns { Prior::Matrix(&matrix) } else { Prior::Scaled(mu) };
        self.of(&prior, 1.0, [self.layers * square, 4 * square])
    }

    /// `held` numbers stay from layer to layer, and `beside` more are there during a solve's
    /// preparation.
    fn of(&self, prior: &Prior, epsilon: f64, [held, beside]: [usize; 2]) -> (Route, u64) {
        let Solves { f, d, layers, facts, batch, learns } = *self;
        let sizes = [f, batch, d];
        let route = Route::choose(prior, epsilon, sizes);
        let square = f * f;
        let learnt = if learns { layers * square } else { 0 };
        let values = 3 * facts * d; // t₀, δ, z − t₀
        let here = batch * (2 * f + 3 * d); // K, perhaps K̃; Z, H, R
        let factors = layers * facts * (f + d); // f32, until the batches are summed
        let doubles =
            8 * (held + learnt + values + here) as u64 + route.bytes(sizes).max(8 * beside as u64);
        (route, doubles + 4 * (square + factors) as u64) // and C
    }

    /// Floating-point operations of all solves by a route.
    pub fn flop(&self, route: Route) -> f64 {
        let [f, n, d] = [self.f, self.batch, self.d].map(|x| x as f64);
        let batches = self.facts.div_ceil(self.batch.max(1)) as f64;
        let one = match route {
            Route::Primal => f * f * n + f * f * f / 3.0 + 2.0 * f * f * n.min(d),
            Route::Dual => f * f * f / 3.0 + 2.0 * f * f * n + 4.0 * f * n * n + n * n * n / 3.0,
        };
        one * batches * self.layers as f64
    }
}
