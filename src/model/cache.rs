//! Keys and values of tokens that later tokens look back at.

use super::Arch;
use crate::tensor::{Precision, Tensor};

/// Keys (turned already) and values of every layer, one row a token.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>, // (rows, G·E) each
}

impl Cache {
    /// No rows yet.
    pub fn new(arch: &Arch, precision: Precision) -> Cache {
        let empty = || Tensor::zeros(precision, &[0, arch.groups * arch.head]);
        Cache { layers: (0..arch.layers).map(|_| (empty(), empty())).collect() }
    }

    /// Keys and values of layer l.
    pub fn layer(&self, l: usize) -> (&Tensor, &Tensor) {
        (&self.layers[l].0, &self.layers[l].1)
    }

    /// Adds the rows of a batch to layer l.
    pub fn push(&mut self, l: usize, k: &Tensor, v: &Tensor) {
        self.layers[l].0.push_rows(k);
        self.layers[l].1.push_rows(v);
    }
}
