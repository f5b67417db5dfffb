//! Where a step of a search begins, fact by fact.
//!
//! ```text
//! x ← x + ρδ           at the rows of the lookup tokens; ρ is 1 but of values in few families
//! x ← x + ρN(y + δ)    where a norm N follows the value y: δ goes in before it
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
    rho: f64,
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
        StepEntry { x: empty(), value, rho: push.rho(model, 0) }
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
    pub fn push(&mut self, x: &mut Tensor, at: &Index, delta: &mut Tensor) {
        let Some(NormedValue { norm, y, saved }) = &mut self.value else {
            return scatter_scaled(x, at, delta, self.rho);
        };
        let mut y = y.clone();
        y.set_rows(x.shape()[0]);
        rows::scatter_add(&mut y, at, delta);
        norm::heads_forward(&mut y, norm, saved);
        scale(&mut y, self.rho);
        rows::add(x, &y);
    }

    /// The gradient for δ at the rows `at`, from dx of the stream it went into.
    pub fn gradient(&self, dx: &Tensor, at: &Index, gradient: &mut Tensor) {
        let Some(NormedValue { norm, saved, .. }) = &self.value else {
            return gather_scaled(dx, at, gradient, self.rho);
        };
        let mut dy = dx.clone();
        scale(&mut dy, self.rho);
        norm::heads_backward(&mut dy, norm, saved);
        rows::gather(&dy, at, gradient);
    }
}

/// Rows of x at `at` += ρ·delta, which is multiplied in place.
pub fn scatter_scaled(x: &mut Tensor, at: &Index, delta: &mut Tensor, rho: f64) {
    scale(delta, rho);
    rows::scatter_add(x, at, delta);
}

/// ρ times the rows of x at `at`.
pub fn gather_scaled(x: &Tensor, at: &Index, found: &mut Tensor, rho: f64) {
    rows::gather(x, at, found);
    scale(found, rho);
}

fn scale(x: &mut Tensor, rho: f64) {
    if rho != 1.0 {
        rows::scale(x, rho);
    }
}
