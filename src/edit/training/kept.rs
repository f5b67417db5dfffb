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
//! left alone, and the training begins anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use safetensors::tensor::Dtype;

use super::step::Trainer;
use crate::base::{DType, Result};
use crate::store::write::{self, Item};
use crate::store::{Fingerprint, Shard};
use crate::tensor::Tensor;

/// How often it is written.
const SAVE_EVERY: Duration = Duration::from_secs(60);

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
    written: bool,
}

/// Parts of a matrix in the file.
const PARTS: [&str; 3] = ["w", "m", "v"];
const LOSSES: &str = "losses";

impl KeptTraining {
    /// In a folder, of a training by the name of all that it depends on.
    pub fn new(dir: &Path, key: &str) -> KeptTraining {
        let path = dir.join(format!("training-{key}.safetensors"));
        KeptTraining { path, saved: Instant::now(), written: false }
    }

    /// Puts the training where it was, if a file says where.
    pub fn read(&mut self, trainer: &mut Trainer, facts: usize) -> Option<TrainingState> {
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
        let values = |name: &str, shape: &[usize]| {
            let entry = entry(name, DType::F32.name()).filter(|entry| entry.shape == shape)?;
            let mut values = vec![0.0f64; shape.iter().product()];
            DType::F32.widen(&shard.bytes(&entry.range), &mut values);
            Some(values)
        };
        let shapes: Vec<[usize; 2]> =
            trainer.ids.iter().map(|&id| trainer.model.own(id).dims()).collect();
        let mut matrices = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            for part in PARTS {
                matrices.push(values(&format!("{i}.{part}"), shape)?);
            }
        }
        let all: Vec<Vec<f32>> = matrices.iter().map(|values| single(values)).collect();
        if header.metadata.get("check")? != &check(&state, &all) {
            return None;
        }
        let compute = trainer.model.compute.clone();
        for (i, shape) in shapes.iter().enumerate() {
            let tensor = |part: usize| Tensor::of(&compute, shape, &matrices[3 * i + part]);
            *trainer.model.own_mut(trainer.ids[i]) = tensor(0);
            let moments = &mut trainer.moments[i];
            (moments.m, moments.v, moments.steps) = (tensor(1), tensor(2), state.steps);
        }
        self.written = true;
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

    /// Writes that the training is done, if it took long enough to be written before.
    ///
    /// # Errors
    ///
    /// As [`write`](KeptTraining::write).
    pub fn write_done(&mut self, trainer: &Trainer, state: &TrainingState) -> Result<()> {
        if self.written { self.write(trainer, state) } else { Ok(()) }
    }

    /// Writes where the training is.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written; a device that fails.
    pub fn write(&mut self, trainer: &Trainer, state: &TrainingState) -> Result<()> {
        let Trainer { model, ids, moments, .. } = trainer;
        let mut items = Vec::new();
        let mut all = Vec::new();
        for ((i, &id), moments) in ids.iter().enumerate().zip(moments) {
            for (part, tensor) in PARTS.into_iter().zip([model.own(id), &moments.m, &moments.v]) {
                let name = format!("{i}.{part}");
                let shape = tensor.shape().to_vec();
                items.push(Item { name, dtype: DType::F32.into(), shape });
                all.push(single(&model.compute.run(|| Ok(tensor.to_f64()))?));
            }
        }
        let facts = state.losses.first().map_or(0, Vec::len);
        let shape = vec![state.losses.len(), facts];
        items.push(Item { name: LOSSES.to_owned(), dtype: Dtype::F64, shape });
        let metadata = BTreeMap::from([
            ("check".to_owned(), check(state, &all)),
            ("epoch".to_owned(), state.epoch.to_string()),
            ("batches".to_owned(), state.batches.to_string()),
            ("steps".to_owned(), state.steps.to_string()),
            ("done".to_owned(), state.done.to_string()),
        ]);
        let losses: Vec<f64> = state.losses.iter().flatten().copied().collect();
        write::write(&self.path, &metadata, &items, &mut |i, out| match all.get(i) {
            Some(values) => out.write_all(bytemuck::cast_slice(values)),
            None => out.write_all(bytemuck::cast_slice(&losses)),
        })?;
        (self.saved, self.written) = (Instant::now(), true);
        Ok(())
    }
}

/// What is computed in f32, as it is.
fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// A name for all that a file holds.
fn check(state: &TrainingState, matrices: &[Vec<f32>]) -> String {
    let mut all = Fingerprint::default();
    for count in [state.epoch, state.batches, state.steps, usize::from(state.done)] {
        all.add(&(count as u64).to_le_bytes());
    }
    state.losses.iter().for_each(|epoch| all.field(bytemuck::cast_slice(epoch)));
    matrices.iter().for_each(|values| all.field(bytemuck::cast_slice(values)));
    all.hex()
}
