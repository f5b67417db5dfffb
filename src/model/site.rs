//! Named places in the decoder: the only hook there is.
//!
//! At each site the forward pass shows the tensor to whoever runs it, who may copy rows out (a
//! tap) or add to rows (a push). That replaces module-path strings.

use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// Rows of what a site shows, one vector each.
pub fn tap(shown: &Tensor, rows: &[usize]) -> Vec<Vec<f64>> {
    let [_, width] = shown.dims();
    let mut read = shown.like(&[rows.len(), width]);
    rows::gather(shown, &Index::new(&shown.compute(), rows), &mut read);
    read.to_f64().chunks(width).map(<[f64]>::to_vec).collect()
}

/// Where in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Output of the attention's projection with its bias, (N, D): PMET's a.
    Attention,
    /// Input of the down projection, (N, F): ROME's k.
    Key,
    /// Output of the down projection with its bias, (N, D): ROME's m and v.
    Value,
    /// The residual stream after the layer, (N, D): MEMIT's h.
    Stream,
}

/// A place in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// l.
    pub layer: usize,
    /// Where in it.
    pub at: At,
}
