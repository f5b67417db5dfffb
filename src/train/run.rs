//! The loop of a training.
//!
//! ```text
//! the loss of what is held out, before anything is learnt
//! for each batch of samples, in an order that is shuffled anew for each sweep over them:
//!     g ← mean of the samples' gradients;  a clipped step of the optimiser
//!     every `val_interval` samples: the loss of what is held out; the best parameters are kept
//!     end after `max_iters` samples, or `patience` of them without a better look
//! ```
//!
//! What is drawn for a sample is a matter of the seed and of how many came before it, so a training
//! that was cut off goes on with the same draws.

use super::kept::{HeldOutLook, KeptParameters, Progressed};
use super::objective::{SampleLoss, SampleObjective};
use super::parameters::Parameters;
use super::samples::Sample;
use crate::base::{Error, Progress, Remedy, Result, Rng, Stage};
use crate::tensor::Tensor;

/// How often what is done; names in config files in brackets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingLoop {
    /// At most so many samples (`max_iters`).
    pub samples: usize,
    /// Samples of a step (`accumulate_bs`).
    pub batch: usize,
    /// The norm of a gradient, at most (`grad_clip`).
    pub clip: f64,
    /// Samples between two looks at what is held out (`val_interval`).
    pub look_every: usize,
    /// Samples without a better look, after which it ends (`early_stop_patience`).
    pub patience: usize,
    /// Of the order and of what is drawn.
    pub seed: u64,
}

/// What a training is given, and who is told of it.
pub struct TrainingRun<'a> {
    /// What is trained on.
    pub samples: &'a [Sample],
    /// What is held out: at least one.
    pub held_out: &'a [Sample],
    /// Where it is kept.
    pub kept: Option<&'a mut KeptParameters>,
    /// Who is told how it goes, and may cancel it.
    pub progress: &'a dyn Progress,
}

impl TrainingLoop {
    /// Trains; afterwards the parameters are those of the best look, and the looks are returned.
    /// What is kept stays, for what comes after may fail.
    ///
    /// # Errors
    ///
    /// A loss or a gradient that is not finite; cancellation; a file of another training, or one
    /// that cannot be written; a device that fails.
    pub fn run(
        &self,
        on: TrainingRun,
        objective: &mut dyn SampleObjective,
        parameters: &mut Parameters,
    ) -> Result<Vec<HeldOutLook>> {
        let TrainingRun { samples, held_out, mut kept, progress } = on;
        let found = kept.as_mut().map_or(Ok(None), |kept| kept.read(parameters))?;
        if let Some(state) = &found {
            progress.remark(&format!("goes on after {} samples, as it was cut off", state.samples));
        }
        let mut state = found.unwrap_or_default();
        if state.history.is_empty() {
            self.look(held_out, objective, parameters, &mut state, progress)?;
        }
        while !self.ended(&state) {
            if progress.cancelled() {
                if let Some(kept) = &mut kept {
                    kept.write(parameters, &state)?;
                }
                let kept = "the training is kept, and the same command goes on with it";
                return Err(Error::Interrupted { kept: kept.to_owned() });
            }
            progress.at(Stage::Sample, state.samples as u64, self.samples as u64);
            let before = state.samples;
            let loss = self.step(samples, objective, parameters, &mut state)?;
            progress.detail(&format!("loss {loss:.4}"));
            let crossed = before / self.look_every < state.samples / self.look_every;
            if crossed || state.samples >= self.samples {
                self.look(held_out, objective, parameters, &mut state, progress)?;
            }
            if let Some(kept) = &mut kept {
                kept.write_seldom(parameters, &state)?;
            }
        }
        progress.at(Stage::Sample, self.samples as u64, self.samples as u64);
        if let Some(kept) = &mut kept {
            kept.write(parameters, &state)?;
        }
        if best(&state.history).is_some_and(|best| best.samples == 0) {
            progress.warn(
                "no look at what is held out was better than the one before the training: what is \
                 left is what it began with; train with a smaller lr, or on more samples",
            );
        }
        if let Some(best) = state.best {
            set(parameters, &best);
        }
        Ok(state.history)
    }

    fn ended(&self, state: &Progressed) -> bool {
        let best = best(&state.history).map_or(state.samples, |look| look.samples);
        state.samples >= self.samples || state.samples - best >= self.patience
    }

    /// A batch and its step; returns the mean of its losses.
    fn step(
        &self,
        samples: &[Sample],
        objective: &mut dyn SampleObjective,
        parameters: &mut Parameters,
        state: &mut Progressed,
    ) -> Result<f64> {
        let size = self.batch.min(self.samples - state.samples);
        parameters.clear();
        let mut sum = 0.0;
        for i in state.samples..state.samples + size {
            let order = Rng::new(self.seed, &format!("order of sweep {}", i / samples.len()));
            let sample = &samples[order.clone().order(samples.len())[i % samples.len()]];
            let drawn = sample
                .draw(objective.draws_edits(), &mut Rng::new(self.seed, &format!("sample {i}")));
            let loss = objective.gradient(parameters, &drawn, 1.0 / size as f64)?;
            if !loss.total.is_finite() {
                return Err(not_finite(&format!("the loss of `{}`", sample.name), state.steps));
            }
            sum += loss.total;
        }
        if !parameters.step(self.clip).is_finite() {
            return Err(not_finite("a gradient", state.steps));
        }
        objective.stepped(parameters);
        state.samples += size;
        state.steps += 1;
        Ok(sum / size as f64)
    }

    /// The loss of what is held out, with draws that are the same at every look.
    fn look(
        &self,
        held_out: &[Sample],
        objective: &mut dyn SampleObjective,
        parameters: &mut Parameters,
        state: &mut Progressed,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut mean = SampleLoss::default();
        let n = held_out.len() as f64;
        for (i, sample) in held_out.iter().enumerate() {
            progress.at(Stage::Measure, i as u64, held_out.len() as u64);
            let drawn = sample
                .draw(objective.draws_edits(), &mut Rng::new(self.seed, &format!("held out {i}")));
            let loss = objective.loss(parameters, &drawn)?;
            mean.edit += loss.edit / n;
            mean.locality += loss.locality / n;
            mean.total += loss.total / n;
        }
        objective.looked(parameters, &mut mean);
        if !mean.total.is_finite() {
            return Err(not_finite("the loss of what is held out", state.steps));
        }
        let is_best = best(&state.history).is_none_or(|best| mean.total < best.loss.total);
        state.history.push(HeldOutLook { samples: state.samples, loss: mean });
        if is_best {
            state.best = Some(parameters.all().iter().map(|p| p.value().to_f64()).collect());
        }
        progress.remark(&format!(
            "after {} samples: held-out loss {:.4} (edit {:.4}, locality {:.4}){}",
            state.samples,
            mean.total,
            mean.edit,
            mean.locality,
            if is_best { ", the best so far" } else { "" },
        ));
        Ok(())
    }
}

/// The look with the least loss, the first of equals.
pub fn best(history: &[HeldOutLook]) -> Option<&HeldOutLook> {
    let less = |a: &&HeldOutLook, b: &&HeldOutLook| a.loss.total.total_cmp(&b.loss.total);
    history.iter().min_by(less)
}

fn set(parameters: &mut Parameters, values: &[Vec<f64>]) {
    let precision = parameters.precision();
    for (p, values) in parameters.all_mut().iter_mut().zip(values) {
        *p.value_mut() = Tensor::of(precision, p.value().shape(), values);
    }
}

fn not_finite(what: &str, steps: usize) -> Error {
    let remedy = Remedy::from("train with a smaller lr").hyperparameter("lr", None);
    Error::numeric(format!("{what} is not finite after {steps} steps"), remedy)
}
