//! Keys and values of tokens that later tokens look back at.

use std::ops::Range;

use super::Arch;
use crate::ops::rows::{self, Index};
use crate::tensor::{Compute, Tensor};

/// Keys (turned already) and values of every layer, one row a token.
#[derive(Clone, Debug)]
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>, // (rows, G·E) each
}

impl Cache {
    /// No rows yet.
    pub fn new(arch: &Arch, compute: &Compute) -> Cache {
        let empty = || Tensor::narrow(compute, &[0, arch.groups * arch.head]);
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
                let rows = index.get_or_insert_with(|| Index::new(&t.compute(), &rows[..]));
                let mut kept = t.like(&[rows.len(), t.shape()[1]]);
                rows::gather(t, rows, &mut kept);
                *t = kept;
            }
        }
    }

    /// Adds some rows of another cache to some layers, rounded to the type they are kept in here.
    pub fn take(&mut self, layers: Range<usize>, from: &Cache, rows: Range<usize>) {
        let take = |to: &mut Tensor, from: &Tensor| {
            let old = to.shape()[0];
            to.set_rows(old + rows.len());
            rows::put(from, rows.clone(), to, old);
        };
        for l in layers {
            take(&mut self.layers[l].0, &from.layers[l].0);
            take(&mut self.layers[l].1, &from.layers[l].1);
        }
    }

    /// Adds the rows of a batch to layer l.
    pub fn push(&mut self, l: usize, k: &Tensor, v: &Tensor) {
        self.layers[l].0.push_rows(k);
        self.layers[l].1.push_rows(v);
    }
}
