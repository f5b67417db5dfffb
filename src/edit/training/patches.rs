//! T-Patcher's training of a fact's neurons, each at the token that it is for.
//!
//! ```text
//! loss      −(1/T) Σ_t ln p(y_t | prompt, y_<t) + alc·L_act + mlc·L_mem
//! L_act     mean of the 5 largest exp(−s_e)                        s_e at a neuron's own token
//! L_mem     mean of the 1000 largest exp(s_m − s_e + 3) + of the 1000 largest exp(s_m + 3)
//!                                                                      s_m at states in memory
//! Adam with decay on a gradient of norm 5 at most; from epoch 100, every 25: the rate is halved
//! where L_mem of held-out states was not lower twice, and it ends where the target is said and
//! L_mem was not lower
//! ```
//!
//! s is what the activation reads. Which neurons there are, and where they begin, is
//! `methods/t_patcher.rs`.

use faer::Mat;

use super::neurons::{
    Held, LabelRows, NeuronWeights, hold, last_mlp, loss, of_inputs, plus, says_all, scaled,
};
use crate::base::{Error, Progress, Remedy, Result, Stage};
use crate::model::Model;
use crate::ops::adam::{self, AdamMoments, AdamRule};
use crate::store::Fingerprint;
use crate::tensor::{Precision, Tensor};

/// Of how many the largest terms are taken.
const MOST_ACTIVE: usize = 5;
const MOST_IN_MEMORY: usize = 1000;
/// m₁ and −m₂.
const MARGIN: f64 = 3.0;
/// The gradient's norm, at most.
const CLIP: f64 = 5.0;
/// Added to the norm where it divides, as the framework does.
const CLIP_EPS: f64 = 1e-6;
/// Looks without a lower memory loss, after which the rate is halved.
const PLATEAU: usize = 1;

/// How the neurons of a fact are trained.
#[derive(Clone, Copy, Debug)]
pub struct PatchTraining {
    /// Adam's rate.
    pub lr: f64,
    /// Of Adam.
    pub weight_decay: f64,
    /// Steps, at most.
    pub epochs: usize,
    /// The first step after which it may end, and steps between looks.
    pub looks: [usize; 2],
    /// Looks without a lower memory loss, after which it ends.
    pub patience: usize,
    /// a.
    pub amplify: f64,
    /// Of L_act and L_mem.
    pub weights: [f64; 2],
}

/// States at which neurons are to be silent: those trained on, and those held out.
pub struct StateMemory {
    /// (M, D).
    pub trained: Mat<f64>,
    /// (M′, D).
    pub held_out: Mat<f64>,
}

impl StateMemory {
    /// A name for all of them.
    pub fn digest(&self) -> String {
        let mut all = Fingerprint::default();
        for m in [&self.trained, &self.held_out] {
            all.field(&(m.nrows() as u64).to_le_bytes());
            m.col_iter().flat_map(|c| c.iter()).for_each(|x| all.add(&x.to_le_bytes()));
        }
        all.hex()
    }
}

/// The mean of the largest of some numbers, and the weight of each in it.
fn mean_of_largest(values: &[f64], most: usize) -> (f64, Vec<f64>) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(most);
    let mut weights = vec![0.0; values.len()];
    let share = 1.0 / order.len().max(1) as f64;
    order.iter().for_each(|&i| weights[i] = share);
    (order.iter().map(|&i| share * values[i]).sum(), weights)
}

/// L_mem, and its gradient for what neurons read at states (M, n) and at their own tokens (n).
fn memory_loss(s: &Mat<f64>, own: &[f64]) -> (f64, Mat<f64>, Vec<f64>) {
    let [m, n] = [s.nrows(), s.ncols()];
    let all = |of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..n).flat_map(|j| (0..m).map(move |i| (i, j))).map(|(i, j)| of(i, j)).collect()
    };
    let near = all(&|i, j| (s[(i, j)] - own[j] + MARGIN).exp());
    let active = all(&|i, j| (s[(i, j)] + MARGIN).exp());
    let (first, w) = mean_of_largest(&near, MOST_IN_MEMORY);
    let (second, v) = mean_of_largest(&active, MOST_IN_MEMORY);
    let of = |i: usize, j: usize| w[j * m + i] * near[j * m + i];
    let ds = Mat::from_fn(m, n, |i, j| of(i, j) + v[j * m + i] * active[j * m + i]);
    let down = (0..n).map(|j| -(0..m).map(|i| of(i, j)).sum::<f64>()).collect();
    (first + second, ds, down)
}

impl PatchTraining {
    /// Trains the neurons of the rows `wrong`; returns the loss of the target before each step.
    ///
    /// # Errors
    ///
    /// A loss or gradient that is not finite; cancellation; a device that fails.
    pub fn run(
        &self,
        model: &Model,
        rows: &LabelRows,
        wrong: &[usize],
        neurons: &mut NeuronWeights,
        memory: &StateMemory,
        progress: &dyn Progress,
    ) -> Result<Vec<f64>> {
        let act = last_mlp(model).act;
        let mut moments: Vec<AdamMoments> =
            neurons.each().map(|m| AdamMoments::new(&column(m))).collect();
        let (mut lr, mut losses) = (self.lr, Vec::new());
        let (mut lowest, mut not_lower, mut waits) = (f64::INFINITY, 0, 0);
        for epoch in 1..=self.epochs {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            progress.at(Stage::Step, epoch as u64 - 1, self.epochs as u64);
            let (nll, mut gradient) = self.gradient(model, rows, wrong, neurons, memory)?;
            let length = gradient.norm();
            if !(nll.is_finite() && length.is_finite()) {
                return Err(not_finite(epoch - 1));
            }
            losses.push(nll);
            let shrink = (CLIP / (length + CLIP_EPS)).min(1.0);
            gradient.each_mut().for_each(|m| *m = scaled(shrink, m));
            let rule = AdamRule { weight_decay: self.weight_decay, ..AdamRule::plain(lr) };
            for ((m, g), moments) in neurons.each_mut().zip(gradient.each()).zip(&mut moments) {
                let mut x = column(m);
                adam::step(&rule, &column(g), moments, &mut x);
                let (rows, values) = (m.nrows(), x.get::<f64>());
                *m = Mat::from_fn(rows, m.ncols(), |i, j| values[j * rows + i]);
            }
            let [from, every] = self.looks;
            if epoch < from || (epoch - from) % every != 0 {
                continue;
            }
            let held = hold(neurons, &rows.u, act);
            let own: Vec<f64> = wrong.iter().enumerate().map(|(j, &t)| held.s[(t, j)]).collect();
            let (now, ..) = memory_loss(&hold(neurons, &memory.held_out, act).s, &own);
            if now < lowest {
                (lowest, not_lower, waits) = (now, 0, 0);
            } else {
                (not_lower, waits) = (not_lower + 1, waits + 1);
            }
            if not_lower >= self.patience && says_all(model, rows, neurons, (act, self.amplify))? {
                break;
            }
            if waits > PLATEAU {
                (lr, waits) = (lr / 2.0, 0);
            }
        }
        Ok(losses)
    }

    /// The loss of the target, and the gradient of all losses.
    pub fn gradient(
        &self,
        model: &Model,
        rows: &LabelRows,
        wrong: &[usize],
        neurons: &NeuronWeights,
        memory: &StateMemory,
    ) -> Result<(f64, NeuronWeights)> {
        let act = last_mlp(model).act;
        let [alc, mlc] = self.weights;
        let states = hold(neurons, &memory.trained, act);
        let own = hold(neurons, &rows.u, act);
        let own: Vec<f64> = wrong.iter().enumerate().map(|(j, &t)| own.s[(t, j)]).collect();
        let (_, in_memory, mut ds) = memory_loss(&states.s, &own);
        let inactive: Vec<f64> = own.iter().map(|s| (-s).exp()).collect();
        let (_, weights) = mean_of_largest(&inactive, MOST_ACTIVE);
        for ((ds, w), l) in ds.iter_mut().zip(weights).zip(&inactive) {
            *ds = mlc * *ds - alc * w * l;
        }
        let at_own = |held: &Held| {
            let mut all: Mat<f64> = Mat::zeros(held.s.nrows(), held.s.ncols());
            wrong.iter().enumerate().for_each(|(j, &t)| all[(t, j)] = ds[j]);
            Some(all)
        };
        let (nll, mut all) = loss(model, rows, neurons, (act, self.amplify), &at_own)?;
        let none = Mat::zeros(states.k.nrows(), states.k.ncols());
        let in_memory = scaled(mlc, &in_memory);
        let elsewhere =
            of_inputs(neurons, (&memory.trained, &states), &none, Some(&in_memory), act);
        all.each_mut().zip(elsewhere.each()).for_each(|(sum, more)| *sum = plus(sum, 1.0, more));
        Ok((nll, all))
    }
}

/// Steps may have moved too far, or the checkpoint be broken.
fn not_finite(steps: usize) -> Error {
    let what = format!("the loss is not finite after {steps} steps");
    let remedy = Remedy::from("set a smaller edit_lr").hyperparameter("edit_lr", None);
    match steps {
        0 => Error::numeric(what, "check the checkpoint for NaN weights"),
        _ => Error::numeric(what, remedy),
    }
}

/// All numbers of a matrix, column by column.
fn column(m: &Mat<f64>) -> Tensor {
    let values: Vec<f64> = m.col_iter().flat_map(|c| c.iter().copied()).collect();
    Tensor::of(Precision::F64, &[1, values.len()], &values)
}
