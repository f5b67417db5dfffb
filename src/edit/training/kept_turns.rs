//! Where an edit in turns is, as it is kept ([`KeptWork`](super::kept_work::KeptWork)) so that one
//! that was cut off goes on to the same bytes.
//!
//! ```text
//! w.<i>             F64 (in, out)   matrix i after the turns so far
//! normaliser.<s>    as in a state
//! losses.0          F64 (1, facts)  of the facts of these turns
//! turns             how many
//! ```

use std::sync::Arc;

use faer::Mat;

use super::normaliser::{self, Normalisers};
use crate::base::Result;
use crate::edit::state::State;
use crate::model::{MatrixId, Model};
use crate::tensor::Tensor;

const W: &str = "w";
const TURNS: &str = "turns";
const LOSSES: &str = "losses";

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

impl Turns {
    /// Of what was kept, whose matrices are put into a model; nothing of what does not fit it.
    pub fn restore(mut state: State, model: &mut Model, ids: &[MatrixId]) -> Option<Turns> {
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

    /// As it is kept, with the model's matrices.
    ///
    /// # Errors
    ///
    /// A device that fails.
    pub fn state(&self, model: &Model, ids: &[MatrixId]) -> Result<State> {
        let mut state = State::default();
        let matrix = |(i, &id): (usize, &MatrixId)| {
            let values = model.compute.run(|| Ok(model.own(id).to_f64()))?;
            let [out, inner] = model.matrix(id).w.dims();
            Ok((i, Arc::new(Mat::from_fn(inner, out, |i, j| values[j * inner + i]))))
        };
        state.put(W, ids.iter().enumerate().map(matrix).collect::<Result<_>>()?);
        normaliser::put(&self.normalisers, &mut state);
        state.notes.insert(TURNS.to_owned(), self.done.into());
        let losses = Mat::from_fn(self.losses.len(), 1, |i, _| self.losses[i]);
        state.put(LOSSES, [(0, Arc::new(losses))].into());
        Ok(state)
    }
}
