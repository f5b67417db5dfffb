//! Training that was cut off, kept so that the same command goes on to the same bytes.
//!
//! A safetensors file in the folder of what is kept ([`Cache`](crate::edit::cache::Cache)), named
//! after all that the training depends on:
//!
//! ```text
//! <i>.w  <i>.m  <i>.v   F32 (out, in)       matrix i, and what Adam knows of its gradients
//! losses                F64 (epochs, facts) of each fact in each epoch so far; NaN: not yet
//! ```
//!
//! Its metadata has where the training is, and a hash of the rest: a file that does not fit it is
//! warned of, and the training begins anew. One matrix at a time is copied to the host.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use safetensors::tensor::Dtype;

use super::step::Trainer;
use crate::base::{DType, Progress, Result};
use crate::store::write::{self, Item};
use crate::store::{Fingerprint, Shard};
use crate::tensor::Tensor;

/// How often it is written.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Where a training is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingState {
    /// The epoch that runs, from 0.
    pub epoch: usize,
    /// Its batches that are done.
    pub batches: usize,
    /// Steps of Adam.
    pub steps: usize,
    /// Whether nothing is left to do.
    pub done: bool,
    /// The loss of each fact in each epoch so far; NaN where it was not seen yet.
    pub losses: Vec<Vec<f64>>,
}

/// The file of a training.
pub struct KeptTraining {
    path: PathBuf,
    saved: Instant,
}

/// Parts of a matrix in the file.
const PARTS: [&str; 3] = ["w", "m", "v"];
const LOSSES: &str = "losses";

impl KeptTraining {
    /// At a path, which [`Cache::begin_training`](crate::edit::cache::Cache::begin_training) gives.
    pub fn at(path: PathBuf) -> KeptTraining {
        KeptTraining { path, saved: Instant::now() }
    }

    /// Puts the training where it was, if a file says where. A damaged one is warned of.
    pub fn read(
        &self,
        trainer: &mut Trainer,
        facts: usize,
        progress: &dyn Progress,
    ) -> Option<TrainingState> {
        if !self.path.exists() {
            return None;
        }
        let found = self.restore(trainer, facts);
        if found.is_none() {
            let path = self.path.display();
            progress.warn(&format!("{path}: is damaged, so the training begins anew"));
        }
        found
    }

    /// The same of a file that is there; nothing is touched where it is damaged.
    fn restore(&self, trainer: &mut Trainer, facts: usize) -> Option<TrainingState> {
        let shard = Shard::open(&self.path).ok()?;
        let header = shard.header();
        let count = |name: &str| header.metadata.get(name)?.parse::<usize>().ok();
        let mut state = TrainingState {
            epoch: count("epoch")?,
            batches: count("batches")?,
            steps: count("steps")?,
            done: header.metadata.get("done")? == "true",
            losses: Vec::new(),
        };
        let entry =
            |name: &str, dtype: &str| header.tensors.get(name).filter(|entry| entry.dtype == dtype);
        let losses = entry(LOSSES, "F64").filter(|entry| entry.shape.get(1) == Some(&facts))?;
        let losses = shard.bytes(&losses.range);
        let losses: Vec<f64> =
            losses.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        state.losses = losses.chunks(facts.max(1)).map(<[f64]>::to_vec).collect();
        let shapes: Vec<[usize; 2]> =
            trainer.ids.iter().map(|&id| trainer.model.own(id).dims()).collect();
        let bytes = |i: usize, part: &str| {
            let entry = entry(&format!("{i}.{part}"), DType::F32.name())?;
            (entry.shape == shapes[i]).then(|| shard.bytes(&entry.range))
        };
        let mut all = begin_check(&state);
        for i in 0..shapes.len() {
            for part in PARTS {
                all.field(&bytes(i, part)?);
            }
        }
        if header.metadata.get("check")? != &all.hex() {
            return None;
        }
        let compute = trainer.model.compute.clone();
        for (i, shape) in shapes.iter().enumerate() {
            let tensor = |part: &str| {
                let mut values = vec![0.0f64; shape.iter().product()];
                DType::F32.widen(&bytes(i, part)?, &mut values);
                Some(Tensor::of(&compute, shape, &values))
            };
            let [w, m, v] = PARTS.map(tensor);
            *trainer.model.own_mut(trainer.ids[i]) = w?;
            let moments = &mut trainer.moments[i];
            (moments.m, moments.v, moments.steps) = (m?, v?, state.steps);
        }
        Some(state)
    }

    /// Writes where the training is, if it was long ago.
    ///
    /// # Errors
    ///
    /// As [`write`](KeptTraining::write).
    pub fn write_seldom(&mut self, trainer: &Trainer, state: &TrainingState) -> Result<()> {
        if self.saved.elapsed() < SAVE_EVERY {
            return Ok(());
        }
        self.write(trainer, state)
    }

    /// Writes where the training is, unless a step was cut off half way: then what was written
    /// before stays.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written; a device that fails.
    pub fn write(&mut self, trainer: &Trainer, state: &TrainingState) -> Result<()> {
        if trainer.torn {
            return Ok(());
        }
        let mut items = Vec::new();
        for (i, &id) in trainer.ids.iter().enumerate() {
            for part in PARTS {
                let shape = trainer.model.own(id).shape().to_vec();
                items.push(Item { name: format!("{i}.{part}"), dtype: DType::F32.into(), shape });
            }
        }
        let mut all = begin_check(state);
        for i in 0..items.len() {
            all.field(bytemuck::cast_slice(&values(trainer, i)?));
        }
        let facts = state.losses.first().map_or(0, Vec::len);
        let shape = vec![state.losses.len(), facts];
        let matrices = items.len();
        items.push(Item { name: LOSSES.to_owned(), dtype: Dtype::F64, shape });
        let metadata = BTreeMap::from([
            ("check".to_owned(), all.hex()),
            ("epoch".to_owned(), state.epoch.to_string()),
            ("batches".to_owned(), state.batches.to_string()),
            ("steps".to_owned(), state.steps.to_string()),
            ("done".to_owned(), state.done.to_string()),
        ]);
        write::write(&self.path, &metadata, &items, &mut |i, out| {
            if i < matrices {
                let values = values(trainer, i).map_err(io::Error::other)?;
                return out.write_all(bytemuck::cast_slice(&values));
            }
            state.losses.iter().try_for_each(|epoch| out.write_all(bytemuck::cast_slice(epoch)))
        })?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// What the file has of tensor i: part i % 3 of matrix i / 3.
fn values(trainer: &Trainer, i: usize) -> Result<Vec<f32>> {
    let (matrix, part) = (i / PARTS.len(), i % PARTS.len());
    let moments = &trainer.moments[matrix];
    let tensor = [trainer.model.own(trainer.ids[matrix]), &moments.m, &moments.v][part];
    let values = trainer.model.compute.run(|| Ok(tensor.to_f64()))?;
    Ok(values.into_iter().map(|x| x as f32).collect()) // computed in f32, so as it is
}

/// The beginning of a name for all that a file holds; its matrices follow.
fn begin_check(state: &TrainingState) -> Fingerprint {
    let mut all = Fingerprint::default();
    for count in [state.epoch, state.batches, state.steps, usize::from(state.done)] {
        all.add(&(count as u64).to_le_bytes());
    }
    state.losses.iter().for_each(|epoch| all.field(bytemuck::cast_slice(epoch)));
    all
}
