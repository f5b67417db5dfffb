//! The buffers of a pass, forward and backward, and what it keeps for backward.

use std::ops::Range;

use super::branch::BranchActs;
use super::layer::{Layer, LayerBack};
use super::model::Model;
use super::pass::{BatchTables, Buffers};
use super::span::Span;
use crate::tensor::Tensor;

/// The buffers of a pass. One `Run` serves many passes; it grows to the largest.
pub struct Run {
    pub(super) kept: Kept,
    pub(super) acts: Vec<Vec<BranchActs>>, // of every layer that is kept, or of the one that runs
    pub(super) tables: BatchTables,
    pub(super) buffers: Buffers,
    pub(super) back: LayerBack,
}

/// What passes keep for backward, and where.
pub(super) struct Kept {
    keep: Keep,
    span: Span,
}

enum Keep {
    /// Nothing: each layer overwrites the activations of the one before.
    Nothing,
    /// The activations of every layer.
    All,
    /// The stream (N, D) where each layer begins. Backward runs each layer again, so that offloaded
    /// weights are uploaded once in each direction.
    Entries(Vec<Tensor>),
}

impl Run {
    /// Empty buffers, for passes without backward.
    pub fn new(model: &Model) -> Run {
        Run::of(model, Keep::Nothing, (0..1).into(), 1)
    }

    /// Empty buffers, for passes that backward will visit in `span`.
    pub fn keeping(model: &Model, span: impl Into<Span>) -> Run {
        let span = span.into();
        let layers = span.layers();
        if !model.offloads_weights() {
            return Run::of(model, Keep::All, span, layers.len());
        }
        let entry = |_| Tensor::zeros(&model.compute, &[0, model.arch.width]);
        Run::of(model, Keep::Entries(layers.map(entry).collect()), span, 1)
    }

    /// Empty buffers with activations of so many layers.
    fn of(model: &Model, keep: Keep, span: Span, layers: usize) -> Run {
        let compute = &model.compute;
        let branches = model.layers.iter().map(|layer| layer.branches.len()).max().unwrap_or(0);
        let acts = |_| (0..branches).map(|_| BranchActs::new(compute)).collect();
        Run {
            kept: Kept { keep, span },
            acts: (0..layers).map(acts).collect(),
            tables: BatchTables::new(compute),
            buffers: Buffers::new(compute),
            back: LayerBack::new(compute),
        }
    }
}

impl Kept {
    /// Where the activations of layer l are.
    pub(super) fn index(&self, l: usize) -> usize {
        match self.keep {
            Keep::All => l - self.span.from.layer,
            Keep::Nothing | Keep::Entries(_) => 0,
        }
    }

    /// Where the stream at which layer l begins is to be kept, if entries are.
    pub(super) fn entry_mut(&mut self, l: usize) -> Option<&mut Tensor> {
        match &mut self.keep {
            Keep::Entries(entries) => Some(&mut entries[l - self.span.from.layer]),
            Keep::Nothing | Keep::All => None,
        }
    }

    /// A copy of it, if entries are kept, and the branches of the layer that follow.
    pub(super) fn entry(&self, l: usize, layer: &Layer) -> Option<(Tensor, Range<usize>)> {
        match &self.keep {
            Keep::Entries(entries) => {
                let x = entries[l - self.span.from.layer].clone();
                Some((x, self.span.branches(l, layer.branches.len())))
            }
            Keep::Nothing | Keep::All => None,
        }
    }
}
