//! The key/value cache: keys and values of tokens that later tokens attend to.

use std::ops::Range;

use super::arch::Arch;
use crate::ops::rows::{self, Index};
use crate::tensor::{Compute, Tensor};

/// Keys (rotated already) and values of every layer, one row a token. On a device without memory
/// for them, its methods unwind.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>, // (rows, G·E) each
}

/// The keys and values that a batch attends to beyond its own.
pub enum Past<'a> {
    /// None: every sequence is whole.
    None,
    /// Rows of a cache, which does not change.
    Read(&'a KvCache),
    /// Rows of a cache, to which the batch's own are appended.
    Grow(&'a mut KvCache),
}

impl KvCache {
    /// Without rows.
    pub fn new(arch: &Arch, compute: &Compute) -> KvCache {
        let empty = || Tensor::narrow(compute, &[0, arch.kv_width()]);
        KvCache { layers: (0..arch.layers).map(|_| (empty(), empty())).collect() }
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

    /// Appends some rows of another cache to some layers, rounded to the type of this one.
    pub fn append(&mut self, layers: Range<usize>, from: &KvCache, rows: Range<usize>) {
        let append = |to: &mut Tensor, from: &Tensor| {
            let old = to.shape()[0];
            to.set_rows(old + rows.len());
            rows::put(from, rows.clone(), to, old);
        };
        for l in layers {
            append(&mut self.layers[l].0, &from.layers[l].0);
            append(&mut self.layers[l].1, &from.layers[l].1);
        }
    }

    /// Appends the rows of a batch to layer l.
    pub fn push(&mut self, l: usize, k: &Tensor, v: &Tensor) {
        self.layers[l].0.push_rows(k);
        self.layers[l].1.push_rows(v);
    }
}
