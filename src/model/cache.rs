//! Keys and values of tokens that later tokens look back at.

use std::ops::Range;

use super::Arch;
use crate::ops::rows::{Index, gather};
use crate::tensor::{Compute, Tensor};

/// Keys (turned already) and values of every layer, one row a token.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>, // (rows, G·E) each
}

impl Cache {
    /// No rows yet.
    pub fn new(arch: &Arch, compute: &Compute) -> Cache {
        let empty = || Tensor::zeros(compute, &[0, arch.groups * arch.head]);
        Cache { layers: (0..arch.layers).map(|_| (empty(), empty())).collect() }
    }

    /// Keys and values of layer l.
    pub fn layer(&self, l: usize) -> (&Tensor, &Tensor) {
        (&self.layers[l].0, &self.layers[l].1)
    }

    /// Keeps only these rows of some layers, one range after the other.
    pub fn keep(&mut self, layers: Range<usize>, rows: &[Range<usize>]) {
        let rows: Vec<usize> = rows.iter().cloned().flatten().collect();
        let mut index = None; // the same for every layer
        for (k, v) in &mut self.layers[layers] {
            for t in [k, v] {
                let compute = t.compute();
                let rows = index.get_or_insert_with(|| Index::new(&compute, &rows[..]));
                let mut kept = Tensor::zeros(&compute, &[rows.len(), t.shape()[1]]);
                gather(t, rows, &mut kept);
                *t = kept;
            }
        }
    }

    /// Adds some rows of another cache to some layers.
    pub fn take(&mut self, layers: Range<usize>, from: &Cache, rows: Range<usize>) {
        for l in layers {
            self.layers[l].0.push_rows_of(&from.layers[l].0, rows.clone());
            self.layers[l].1.push_rows_of(&from.layers[l].1, rows.clone());
        }
    }

    /// Adds the rows of a batch to layer l.
    pub fn push(&mut self, l: usize, k: &Tensor, v: &Tensor) {
        self.layers[l].0.push_rows(k);
        self.layers[l].1.push_rows(v);
    }
}
