//! SERAC's memory: facts as texts, which of them a prompt is about, and the matrices of the model
//! that answers then.
//!
//! ```text
//! x (D)     √D h̄ of a text (`states.rs`), in the model without edits beside it
//! s(a, b)   = exp(−‖M x_a − M x_b‖²)                      M (64, D) trained, with the matrices
//! e         the fact whose prompt has the largest s with the prompt; the last of equals
//! s > 1/2   the counterfactual model answers: it reads prompt and target of e, then the prompt
//! else      the base answers, as if there were no memory
//! ```
//!
//! The counterfactual model is the base with other matrices, which the memory holds whole: 4 bytes
//! a weight. How it comes to be is in `edit/methods/serac.rs`. Source: Mitchell et al. 2022,
//! arXiv:2206.06520.

use std::collections::BTreeMap;

use super::context::ContextMemory;
use super::states::mean_states;
use crate::base::Result;
use crate::linalg::vector::dot;
use crate::model::lineage::WeightsName;
use crate::model::{MatrixId, Model};

/// Width of what is compared.
pub const SCOPE_WIDTH: usize = 64;
/// A prompt is about a fact above this s.
pub const IN_SCOPE: f64 = 0.5;

/// Facts, and what answers prompts about them.
#[derive(Clone, Debug, PartialEq)]
pub struct SeracMemory {
    /// The weights it was made for.
    pub made_for: WeightsName,
    /// The facts: what stands before a prompt is a fact's prompt and target.
    pub facts: ContextMemory,
    /// M x of each fact's prompt, one after the other (n, 64).
    pub keys: Vec<f32>,
    /// M (64, D).
    pub scope: Vec<f32>,
    /// Sizes and W (out, in) of the counterfactual model where it is another than the base's.
    pub matrices: BTreeMap<MatrixId, ([usize; 2], Vec<f32>)>,
}

/// x of texts: their mean states, √D long.
///
/// # Errors
///
/// As [`mean_states`].
pub fn scope_states<I: AsRef<[u32]>>(model: &Model, texts: &[I]) -> Result<Vec<Vec<f64>>> {
    let length = (model.arch.width as f64).sqrt();
    let mut all = mean_states(model, texts)?;
    all.iter_mut().flatten().for_each(|x| *x *= length);
    Ok(all)
}

impl SeracMemory {
    /// M x of texts.
    ///
    /// # Errors
    ///
    /// As [`mean_states`].
    pub fn points<I: AsRef<[u32]>>(&self, model: &Model, texts: &[I]) -> Result<Vec<Vec<f64>>> {
        let m: Vec<f64> = self.scope.iter().map(|&m| m.into()).collect();
        let states = scope_states(model, texts)?;
        let point = |x: &Vec<f64>| m.chunks(x.len()).map(|row| dot(row, x)).collect();
        Ok(states.iter().map(point).collect())
    }

    /// The fact that a prompt is most about, by its M x, and ln s; nothing of no facts.
    pub fn nearest(&self, point: &[f64]) -> Option<(usize, f64)> {
        let square = |(key, p): (&f32, &f64)| (f64::from(*key) - p).powi(2);
        let distance = |key: &[f32]| key.iter().zip(point).map(square).sum::<f64>();
        let all = self.keys.chunks(SCOPE_WIDTH).map(distance).enumerate();
        all.rev().min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(i, d)| (i, -d))
    }

    /// The same, if the prompt is about it.
    pub fn about(&self, point: &[f64]) -> Option<usize> {
        self.nearest(point).filter(|(_, log_s)| log_s.exp() > IN_SCOPE).map(|(i, _)| i)
    }
}
