//! CaliNET's training: Adafactor on the loss of all texts.
//!
//! ```text
//! g of the loss, of each matrix of the neurons, at step t:
//!     a_i ← β a_i + (1 − β) mean_j (g² + 10⁻³⁰)      c_j the same over i,  β = 1 − t^−0.8
//!     û = g / √(a_i c_j / mean_i a_i)                 x ← x − lr û / max(1, rms(û))
//! ```
//!
//! A training that was cut off goes on from `neurons.<i>`, `rows.<i>` and `columns.<i>` (x, a and c
//! of matrix i) and `losses.0`. Source: Shazeer, Stern 2018, arXiv:1804.04235.

use std::sync::Arc;

use faer::Mat;

use super::kept_work::{KeptWork, keep};
use super::neurons::{LabelRows, NeuronWeights, last_mlp, loss, plus, scaled};
use crate::base::{Error, Progress, Remedy, Result, Stage};
use crate::edit::state::{LayerTensors, State};
use crate::model::Model;

/// Added to squares of the gradient.
const SQUARE: f64 = 1e-30;
/// How fast squares are forgotten.
const DECAY: f64 = 0.8;

const ROWS: &str = "rows";
const COLUMNS: &str = "columns";
const LOSSES: &str = "losses";

/// Neurons in training on all texts together.
pub struct NeuronTraining {
    /// As they are.
    pub neurons: NeuronWeights,
    /// The loss before each step so far.
    pub losses: Vec<f64>,
    squares: Vec<Squares>, // of each of their matrices
}

impl NeuronTraining {
    /// From the start.
    pub fn new(neurons: NeuronWeights) -> NeuronTraining {
        let none =
            |m: &Mat<f64>| Squares { rows: vec![0.0; m.nrows()], columns: vec![0.0; m.ncols()] };
        let squares = neurons.each().map(none).collect();
        NeuronTraining { neurons, losses: Vec::new(), squares }
    }

    /// As it was kept, in the layout of the neurons that it began with.
    pub fn of(mut state: State, like: &NeuronWeights) -> Option<NeuronTraining> {
        let numbers = |m: &Mat<f64>| m.col_iter().flat_map(|c| c.iter().copied()).collect();
        let mut at = NeuronTraining::new(NeuronWeights::take(&mut state, like)?);
        at.losses = numbers(state.take(LOSSES).get(&0)?);
        let [rows, columns] = [ROWS, COLUMNS].map(|name| state.take(name));
        for (i, squares) in at.squares.iter_mut().enumerate() {
            *squares = Squares { rows: numbers(rows.get(&i)?), columns: numbers(columns.get(&i)?) };
        }
        Some(at)
    }

    fn state(&self) -> State {
        let mut state = State::default();
        self.neurons.put(&mut state);
        let numbers = |all: &[f64]| Arc::new(Mat::from_fn(all.len(), 1, |i, _| all[i]));
        let of = |part: fn(&Squares) -> &[f64]| -> LayerTensors {
            self.squares.iter().map(|squares| numbers(part(squares))).enumerate().collect()
        };
        state.put(ROWS, of(|squares| &squares.rows));
        state.put(COLUMNS, of(|squares| &squares.columns));
        state.put(LOSSES, [(0, numbers(&self.losses))].into());
        state
    }

    /// Takes the steps that are left of so many, at a rate.
    ///
    /// # Errors
    ///
    /// A loss that is not finite; cancellation; a device that fails; a folder that cannot be
    /// written. What was done is kept.
    pub fn run(
        &mut self,
        model: &Model,
        rows: &LabelRows,
        (steps, lr): (usize, f64),
        mut kept: Option<&mut KeptWork>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let before = self.losses.len();
        while self.losses.len() < steps {
            progress.at(Stage::Epoch, self.losses.len() as u64, steps as u64);
            let taken = match progress.cancelled() {
                true => Err(Error::Interrupted { kept: "nothing was written".to_owned() }),
                false => self.step(model, rows, lr),
            };
            taken.map_err(|e| {
                let kept = kept.as_deref_mut().filter(|_| !self.losses.is_empty());
                keep(e, kept, || Ok(self.state()))
            })?;
            if let Some(kept) = kept.as_deref_mut().filter(|kept| kept.is_due()) {
                kept.write(self.state())?;
            }
        }
        progress.at(Stage::Epoch, steps as u64, steps as u64);
        // What comes after it may fail, and then it need not be done again.
        match kept.filter(|_| before < steps) {
            Some(kept) => kept.write(self.state()),
            None => Ok(()),
        }
    }

    fn step(&mut self, model: &Model, rows: &LabelRows, lr: f64) -> Result<()> {
        let how = (last_mlp(model).act, 1.0);
        let (nll, gradient) = loss(model, rows, &self.neurons, how, &|_| None)?;
        if !(nll.is_finite() && gradient.norm().is_finite()) {
            return Err(not_finite(self.losses.len()));
        }
        self.losses.push(nll);
        let t = self.losses.len();
        for ((x, g), squares) in self.neurons.each_mut().zip(gradient.each()).zip(&mut self.squares)
        {
            *x = plus(x, -lr, &squares.step(g, t));
        }
        Ok(())
    }
}

/// Steps may have moved too far, or the checkpoint be broken.
fn not_finite(steps: usize) -> Error {
    let what = format!("the loss is not finite after {steps} steps");
    match steps {
        0 => Error::numeric(what, "check the checkpoint for NaN weights"),
        _ => Error::numeric(what, Remedy::from("set a smaller lr").hyperparameter("lr", None)),
    }
}

/// What Adafactor keeps of a matrix.
struct Squares {
    rows: Vec<f64>,    // a
    columns: Vec<f64>, // c
}

impl Squares {
    /// û/max(1, rms(û)) of step t, from 1.
    fn step(&mut self, g: &Mat<f64>, t: usize) -> Mat<f64> {
        let [n, m] = [g.nrows(), g.ncols()];
        let beta = 1.0 - (t as f64).powf(-DECAY);
        let square = |i: usize, j: usize| g[(i, j)] * g[(i, j)] + SQUARE;
        for (i, a) in self.rows.iter_mut().enumerate() {
            let mean = (0..m).map(|j| square(i, j)).sum::<f64>() / m as f64;
            *a = beta * *a + (1.0 - beta) * mean;
        }
        for (j, c) in self.columns.iter_mut().enumerate() {
            let mean = (0..n).map(|i| square(i, j)).sum::<f64>() / n as f64;
            *c = beta * *c + (1.0 - beta) * mean;
        }
        let mean = self.rows.iter().sum::<f64>() / n as f64;
        let scale = |i: usize, j: usize| (self.rows[i] / mean * self.columns[j]).sqrt();
        let update = Mat::from_fn(n, m, |i, j| g[(i, j)] / scale(i, j));
        let total: f64 = update.col_iter().flat_map(|c| c.iter()).map(|x| x * x).sum();
        let rms = (total / (n * m) as f64).sqrt();
        scaled(1.0 / rms.max(1.0), &update)
    }
}
