//! The epochs of a training.
//!
//! ```text
//! for each epoch, at most `num_steps` of them
//!     for each batch of the facts, in their order or shuffled anew
//!         one step, unless the batch's loss is below 0.01
//!     end, where the mean over the epoch's facts is below 0.01
//! ```
//!
//! The order of an epoch is a matter of the seed and the epoch alone, so a training that was cut
//! off goes on in the same order.

use super::kept::{KeptTraining, TrainingState};
use super::memory::TrainingMemory;
use super::step::{MoveRule, Trainer};
use super::texts::TrainingText;
use crate::base::{Error, Progress, Remedy, Result, Rng, Stage};
use crate::model::{MatrixId, Model};
use crate::store::Fingerprint;

/// The loss below which a batch is left alone, and an epoch is the last; everywhere in the field.
pub const ENOUGH: f64 = 0.01;

/// How matrices are trained; names in config files in brackets.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Which.
    pub ids: Vec<MatrixId>,
    /// At most this many epochs (`num_steps`).
    pub epochs: usize,
    /// Facts of a batch (`batch_size`).
    pub batch: usize,
    /// Whether every epoch has an order of its own, and of which seed.
    pub shuffle: Option<u64>,
    /// How a step is taken.
    pub rule: MoveRule,
}

/// What a training came to.
pub struct Trained {
    /// W (out, in) of each matrix.
    pub matrices: Vec<Vec<f64>>,
    /// The loss of each fact in each epoch, before its batch's step.
    pub losses: Vec<Vec<f64>>,
}

impl Training {
    /// Trains on texts, whose facts have the names `ids`, in `room` bytes.
    ///
    /// # Errors
    ///
    /// A loss that is not finite; cancellation; a file that cannot be written; a device without
    /// room. What was done is kept.
    pub fn run(
        &self,
        model: &Model,
        texts: &[TrainingText],
        names: &[&str],
        room: u64,
        mut kept: Option<KeptTraining>,
        progress: &dyn Progress,
    ) -> Result<Trained> {
        let bound = self.rule.bound.is_some();
        let memory = TrainingMemory::new(model, &self.ids, texts, bound, room);
        let make = || Ok(Trainer::new(model, &self.ids, texts, self.rule, memory.most));
        let mut trainer = model.compute.run(make)?;
        let found = kept
            .as_ref()
            .map(|kept| model.compute.run(|| Ok(kept.read(&mut trainer, texts.len(), progress))));
        let found = found.transpose()?.flatten();
        if let Some(state) = &found {
            let (epoch, all) = (state.epoch + 1, self.epochs);
            progress.remark(&match state.done {
                true => "was trained before".to_owned(),
                false => format!("goes on with epoch {epoch} of {all}, as it was cut off"),
            });
        }
        let mut state = found.unwrap_or_default();
        let trained_before = state.done;
        if !state.done && memory.keeps {
            trainer.keep_below(progress)?;
        }
        while !state.done && state.epoch < self.epochs {
            let ended = self.epoch(&mut trainer, &mut state, names, kept.as_mut(), progress);
            ended.map_err(|e| keep(e, kept.as_mut(), &trainer, &state))?;
        }
        progress.at(Stage::Epoch, self.epochs as u64, self.epochs as u64);
        state.done = true;
        // What comes after it may fail, and then it need not be done again.
        if let Some(kept) = kept.as_mut().filter(|_| !trained_before) {
            kept.write(&trainer, &state)?;
        }
        let values = || Ok(self.ids.iter().map(|&id| trainer.model.own(id).to_f64()).collect());
        let matrices = model.compute.run(values)?;
        let of = |fact: usize| state.losses.iter().map(move |epoch| epoch[fact]).collect();
        Ok(Trained { matrices, losses: (0..texts.len()).map(of).collect() })
    }

    /// Runs what is left of an epoch.
    fn epoch(
        &self,
        trainer: &mut Trainer,
        state: &mut TrainingState,
        names: &[&str],
        mut kept: Option<&mut KeptTraining>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let order = self.order(state.epoch, names.len());
        let batches = order.chunks(self.batch);
        let all = batches.len();
        if state.losses.len() == state.epoch {
            state.losses.push(vec![f64::NAN; names.len()]);
        }
        for batch in batches.skip(state.batches) {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            progress.at(Stage::Epoch, state.epoch as u64, self.epochs as u64);
            let losses = trainer.gradient(batch)?;
            if let Some(i) = losses.iter().position(|loss| !loss.is_finite()) {
                return Err(not_finite(names[batch[i]], state.steps));
            }
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            for (&fact, loss) in batch.iter().zip(losses) {
                state.losses[state.epoch][fact] = loss;
            }
            if mean >= ENOUGH {
                trainer.step()?;
                state.steps += 1;
            }
            state.batches += 1;
            progress.detail(&format!("batch {} of {all}, loss {mean:.3}", state.batches));
            if let Some(kept) = &mut kept {
                kept.write_seldom(trainer, state)?;
            }
        }
        let losses = &state.losses[state.epoch];
        state.done = losses.iter().sum::<f64>() / (losses.len() as f64) < ENOUGH;
        state.epoch += 1;
        state.batches = 0;
        Ok(())
    }

    /// The facts of an epoch, by number, in its order.
    pub fn order(&self, epoch: usize, facts: usize) -> Vec<usize> {
        match self.shuffle {
            Some(seed) => Rng::new(seed, &format!("order of epoch {epoch}")).order(facts),
            None => (0..facts).collect(),
        }
    }

    /// A name for all that decides what it comes to: the weights, what computes, the settings and
    /// the texts. The version of the program stands for the way of computing.
    pub fn key(
        &self,
        version: &str,
        weights: &str,
        compute: &str,
        texts: &[TrainingText],
    ) -> String {
        let mut all = Fingerprint::default();
        for name in ["training", version, weights, compute] {
            all.field(name.as_bytes());
        }
        self.digest(&mut all);
        texts.iter().for_each(|text| text.digest(&mut all));
        all.hex()
    }

    fn digest(&self, into: &mut Fingerprint) {
        let Training { ids, epochs, batch, shuffle, rule } = self;
        ids.iter().for_each(|id| into.field(id.to_string().as_bytes()));
        into.field(b"");
        let MoveRule { lr, weight_decay, bound } = rule;
        // A bound is above 0, and a seed may be any number.
        for number in [*lr, *weight_decay, bound.unwrap_or(0.0)] {
            into.add(&number.to_le_bytes());
        }
        let seed = shuffle.unwrap_or(0);
        for count in [*epochs as u64, *batch as u64, u64::from(shuffle.is_some()), seed] {
            into.add(&count.to_le_bytes());
        }
    }
}

/// Keeps what was done before an error; returns the error, or why an interruption keeps nothing.
fn keep(
    e: Error,
    kept: Option<&mut KeptTraining>,
    trainer: &Trainer,
    state: &TrainingState,
) -> Error {
    let interrupted = matches!(e, Error::Interrupted { .. });
    // Before the first step there is nothing that would not be done again at once.
    let written = kept.filter(|_| interrupted || state.steps > 0);
    match written.map_or(Ok(()), |kept| kept.write(trainer, state)) {
        Err(unwritten) if interrupted => unwritten,
        _ => e,
    }
}

/// ‖Δ‖ may be large, or the checkpoint broken.
fn not_finite(name: &str, steps: usize) -> Error {
    let what = format!("the loss of `{name}` is not finite after {steps} steps");
    match steps {
        0 => Error::numeric(what, "check the checkpoint for NaN weights"),
        _ => Error::numeric(what, Remedy::from("set a smaller lr").hyperparameter("lr", None)),
    }
}
