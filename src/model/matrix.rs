//! The matrices of a layer, and the product with one.

use crate::ops::linear;
use crate::tensor::{Compute, Tensor, Weight};

/// A matrix of a layer, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matrix {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention's output.
    O,
    /// The gate of a gated MLP.
    Gate,
    /// From the stream into the MLP.
    Up,
    /// From the MLP into the stream: the matrix that edits change.
    Down,
}

/// y = x Wᵀ + b.
#[derive(Clone)]
pub struct Linear {
    /// (out, in).
    pub w: Weight,
    /// (out).
    pub b: Option<Tensor>,
}

impl Linear {
    /// y (N, out) = x (N, in) Wᵀ + b.
    pub(super) fn forward(&self, x: &Tensor, y: &mut Tensor) {
        linear::forward(x, &self.w, self.b.as_ref(), y);
    }

    /// dx (N, in) = dy (N, out) W, or, if it `adds`, dx += that.
    pub(super) fn backward(&self, dy: &Tensor, dx: &mut Tensor, adds: bool) {
        linear::backward(dy, &self.w, dx, adds);
    }

    /// out.
    pub(super) fn out(&self) -> usize {
        self.w.dims()[0]
    }

    /// in.
    pub(super) fn inner(&self) -> usize {
        self.w.dims()[1]
    }

    /// How many weights it has, without the bias.
    pub(super) fn weights(&self) -> usize {
        self.w.dims().iter().product()
    }

    /// The same on another device; what is uploaded of W there stays with it.
    pub(super) fn on(&self, compute: &Compute) -> Linear {
        Linear { w: self.w.clone(), b: self.b.as_ref().map(|b| b.on(compute).into_owned()) }
    }
}
