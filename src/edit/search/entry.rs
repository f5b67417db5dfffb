//! Where a step of a search begins, fact by fact.
//!
//! ```text
//! x ← x + δ            at the rows of the lookup tokens
//! x ← x + N(y + δ)     where a norm N follows the value y: δ goes in before it
//! ```
//!
//! Backward, the gradient for δ is dx at those rows, or what N makes of it.

use super::settings::Push;
use crate::model::Model;
use crate::ops::norm::{self, Norm, Saved};
use crate::ops::rows::{self, Index};
use crate::tensor::{Compute, Tensor};

/// What all steps of some facts begin with.
pub struct StepEntry {
    x: Tensor, // (tokens, D): the stream, without what δ changes
    value: Option<NormedValue>,
}

/// A value that a norm reads.
struct NormedValue {
    norm: Norm,
    y: Tensor, // (tokens, D): what the down projection gives, without δ
    saved: Saved,
}

impl StepEntry {
    /// Of no fact yet.
    pub fn new(model: &Model, push: &Push) -> StepEntry {
        let empty = || Tensor::zeros(&model.compute, &[0, model.arch.width]);
        let value = push.norm(model).map(|norm| NormedValue {
            norm: norm.clone(),
            y: empty(),
            saved: Saved::new(&model.compute, 0, 0),
        });
        StepEntry { x: empty(), value }
    }

    /// Takes the rows of further facts, the first so many of x and, where a norm reads it, of y.
    pub fn append(&mut self, x: &Tensor, y: Option<&Tensor>, tokens: usize) {
        self.x.push_rows_of(x, 0..tokens);
        if let (Some(value), Some(y)) = (&mut self.value, y) {
            value.y.push_rows_of(y, 0..tokens);
        }
    }

    /// Keeps some rows alone.
    pub fn keep(&mut self, compute: &Compute, tokens: Vec<usize>) {
        let tokens = Index::new(compute, tokens);
        let keep = |t: &mut Tensor| {
            let mut kept = t.like(&[tokens.len(), t.shape()[1]]);
            rows::gather(t, &tokens, &mut kept);
            *t = kept;
        };
        keep(&mut self.x);
        self.value.iter_mut().for_each(|value| keep(&mut value.y));
    }

    /// x (n, D), with rows of zeros behind those of the facts.
    pub fn stream(&self, n: usize) -> Tensor {
        let mut x = self.x.clone();
        x.set_rows(n);
        x
    }

    /// Adds the value's δ, a row of `delta` for each of `at`.
    pub fn push(&mut self, x: &mut Tensor, at: &Index, delta: &Tensor) {
        let Some(NormedValue { norm, y, saved }) = &mut self.value else {
            return rows::scatter_add(x, at, delta);
        };
        let mut y = y.clone();
        y.set_rows(x.shape()[0]);
        rows::scatter_add(&mut y, at, delta);
        norm::heads_forward(&mut y, norm, saved);
        rows::add(x, &y);
    }

    /// The gradient for δ at the rows `at`, from dx of the stream it went into.
    pub fn gradient(&self, dx: &Tensor, at: &Index, gradient: &mut Tensor) {
        let Some(NormedValue { norm, saved, .. }) = &self.value else {
            return rows::gather(dx, at, gradient);
        };
        let mut dy = dx.clone();
        norm::heads_backward(&mut dy, norm, saved);
        rows::gather(&dy, at, gradient);
    }
}
