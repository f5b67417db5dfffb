//! The matrices of a layer, and the product with one.

use std::sync::Arc;

use crate::ops::linear;
use crate::store::RowBlocks;
use crate::tensor::{Compute, Layout, Tensor, Weight};

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
    /// From the MLP into the stream: the matrix that most methods change.
    Down,
}

impl Matrix {
    /// All there are.
    pub const ALL: [Matrix; 7] =
        [Matrix::Q, Matrix::K, Matrix::V, Matrix::O, Matrix::Gate, Matrix::Up, Matrix::Down];

    /// The name that users give.
    pub fn name(self) -> &'static str {
        match self {
            Matrix::Q => "q",
            Matrix::K => "k",
            Matrix::V => "v",
            Matrix::O => "o",
            Matrix::Gate => "gate",
            Matrix::Up => "up",
            Matrix::Down => "down",
        }
    }
}

/// Where a checkpoint stores a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPlace {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// The framework's path of its module, with the prefix even where the checkpoint omits it.
    pub module: String,
    /// Whether the tensor is stored (in, out).
    pub fan_in_fan_out: bool,
    /// The rows of the tensor that are the matrix, unless all are.
    pub rows: Option<RowBlocks>,
}

impl StoredPlace {
    /// Sizes (out, in) of the tensor that holds a matrix of such sizes.
    pub(super) fn sizes(&self, [out, inner]: [usize; 2]) -> [usize; 2] {
        [self.rows.map_or(out, |rows| rows.tensor_rows()), inner]
    }

    /// How the tensor is stored.
    pub(super) fn layout(&self) -> Layout {
        if self.fan_in_fan_out { Layout::InOut } else { Layout::OutIn }
    }

    /// The matrix in its tensor.
    pub(super) fn part(&self, tensor: Weight) -> Weight {
        match self.rows {
            None => tensor,
            Some(RowBlocks { start, len, period, .. }) => tensor.every(start..start + len, period),
        }
    }
}

/// y = x Wᵀ + b.
#[derive(Clone)]
pub struct Linear {
    /// (out, in).
    pub w: Weight,
    /// (out).
    pub b: Option<Tensor>,
    /// Where the checkpoint has W.
    pub stored: Arc<StoredPlace>,
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
    pub fn weights(&self) -> usize {
        self.w.dims().iter().product()
    }

    /// The same on another device; what is uploaded of W there stays with it.
    pub(super) fn on(&self, compute: &Compute) -> Linear {
        let b = self.b.as_ref().map(|b| b.on(compute).into_owned());
        Linear { w: self.w.clone(), b, stored: self.stored.clone() }
    }
}
