//! An edit in turns that was cut off, kept so that the same command goes on to the same bytes.
//!
//! A file of the format of a [`State`] in the folder of what is kept
//! ([`Cache`](crate::edit::cache::Cache)), named after all that the edit depends on:
//!
//! ```text
//! w.<i>             F64 (in, out)   matrix i after the turns so far
//! normaliser.<s>    as in a state
//! losses.0          F64 (1, facts)  of the facts of these turns
//! turns, check      how many, and a hash of the rest
//! ```
//!
//! One that is damaged is warned of, and the edit begins anew.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use faer::Mat;

use super::kept::SAVE_EVERY;
use super::normaliser::{self, Normalisers};
use crate::base::{Progress, Result};
use crate::edit::state::State;
use crate::model::{MatrixId, Model};
use crate::tensor::Tensor;

/// What the file says of its kind.
const KIND: &str = "turns";
const W: &str = "w";
const TURNS: &str = "turns";
const LOSSES: &str = "losses";
const CHECK: &str = "check";

/// Where an edit in turns is.
#[derive(Clone, Default)]
pub struct Turns {
    /// How many were taken.
    pub done: usize,
    /// What they normalise by.
    pub normalisers: Normalisers,
    /// The loss of each fact of them, before its turn.
    pub losses: Vec<f64>,
}

/// The file of an edit in turns.
pub struct KeptTurns {
    path: PathBuf,
    key: String,
    saved: Instant,
}

impl KeptTurns {
    /// At a path, which [`Cache::begin_training`](crate::edit::cache::Cache::begin_training) gives
    /// for the key.
    pub fn at(path: PathBuf, key: String) -> KeptTurns {
        KeptTurns { path, key, saved: Instant::now() }
    }

    /// Puts the matrices that were kept into a model; nothing where there are none.
    pub fn read(
        &self,
        model: &mut Model,
        ids: &[MatrixId],
        progress: &dyn Progress,
    ) -> Option<Turns> {
        if !self.path.exists() {
            return None;
        }
        let found = self.restore(model, ids);
        match &found {
            Some(at) => {
                progress.remark(&format!("goes on after turn {}, as it was cut off", at.done))
            }
            None => {
                let file = self.path.display();
                progress.warn(&format!("{file}: is damaged, so the edit begins anew"));
            }
        }
        found
    }

    fn restore(&self, model: &mut Model, ids: &[MatrixId]) -> Option<Turns> {
        let mut state = State::read(&self.path, KIND, &self.key).ok()?;
        let check = state.notes.remove(CHECK)?;
        if check.as_str()? != state.digest() {
            return None;
        }
        let done = state.notes.get(TURNS)?.as_u64()? as usize;
        let losses = state.take(LOSSES).remove(&0)?;
        let losses = losses.col_iter().flat_map(|c| c.iter().copied()).collect();
        let tensors = state.take(W);
        for (i, &id) in ids.iter().enumerate() {
            let w = tensors.get(&i)?;
            let dims = model.matrix(id).w.dims();
            if [w.ncols(), w.nrows()] != dims {
                return None;
            }
            let values: Vec<f64> = w.col_iter().flat_map(|row| row.iter().copied()).collect();
            *model.own_mut(id) = Tensor::of(&model.compute, &dims, &values);
        }
        Some(Turns { done, normalisers: normaliser::take(&mut state), losses })
    }

    /// Writes where the edit is, if it was long ago.
    ///
    /// # Errors
    ///
    /// As [`write`](KeptTurns::write).
    pub fn write_seldom(&mut self, model: &Model, ids: &[MatrixId], at: &Turns) -> Result<()> {
        match self.saved.elapsed() < SAVE_EVERY {
            true => Ok(()),
            false => self.write(model, ids, at),
        }
    }

    /// Writes where the edit is.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written; a device that fails.
    pub fn write(&mut self, model: &Model, ids: &[MatrixId], at: &Turns) -> Result<()> {
        let mut state = State::default();
        let matrix = |(i, &id): (usize, &MatrixId)| {
            let values = model.compute.run(|| Ok(model.own(id).to_f64()))?;
            let [out, inner] = model.matrix(id).w.dims();
            Ok((i, Arc::new(Mat::from_fn(inner, out, |i, j| values[j * inner + i]))))
        };
        state.put(W, ids.iter().enumerate().map(matrix).collect::<Result<_>>()?);
        normaliser::put(&at.normalisers, &mut state);
        state.notes.insert(TURNS.to_owned(), at.done.into());
        let losses = Mat::from_fn(at.losses.len(), 1, |i, _| at.losses[i]);
        state.put(LOSSES, [(0, Arc::new(losses))].into());
        let check = state.digest();
        state.notes.insert(CHECK.to_owned(), check.into());
        state.write(&self.path, KIND, &self.key)?;
        self.saved = Instant::now();
        Ok(())
    }
}
