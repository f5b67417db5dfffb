//! A decoder with its weights, and what can be asked of it without running it.

use std::sync::Arc;

use super::arch::Arch;
use super::layer::Layer;
use super::matrix::Linear;
use crate::ops::norm::Norm;
use crate::tensor::{Compute, Weight};

/// A decoder with its weights. Clones share them.
///
/// What returns a `Result` reports a device that is out of memory, or fails, as an error. The parts
/// of a pass return none and unwind instead (they say so); the code that puts them together calls
/// them inside [`Compute::run`].
#[derive(Clone)]
pub struct Model {
    /// Sizes and options.
    pub arch: Arch,
    /// Where it computes, and in which type.
    pub compute: Compute,
    /// Of the steps of a value search, on a device.
    pub search_precision: SearchPrecision,
    /// Further devices that share facts and text with it.
    pub peers: Vec<Compute>,
    /// Token embedding (V, D).
    pub embed: Weight,
    /// Position embedding (positions, D), where it is learned.
    pub positions: Option<Weight>,
    /// The layers, first one first.
    pub layers: Vec<Arc<Layer>>,
    /// Before the head.
    pub norm: Norm,
    /// (V, D).
    pub head: Linear,
}

/// Precision of the products in the steps of a value search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SearchPrecision {
    /// As in every other pass.
    #[default]
    Exact,
    /// On a device, products and attention read bf16; on the host the same as `Exact`.
    Fast,
}

impl SearchPrecision {
    /// Each, by its name.
    pub const NAMED: [(&'static str, SearchPrecision); 2] =
        [("exact", SearchPrecision::Exact), ("fast", SearchPrecision::Fast)];

    /// Its name.
    pub fn name(self) -> &'static str {
        SearchPrecision::NAMED[self as usize].0
    }
}

impl Model {
    /// The same model, computing as the steps of a search do.
    pub fn for_search(&self) -> Model {
        Model { compute: self.search_compute(), ..self.clone() }
    }

    /// Where the steps of a search compute, and in which type.
    pub fn search_compute(&self) -> Compute {
        match self.search_precision {
            SearchPrecision::Exact => self.compute.clone(),
            SearchPrecision::Fast => self.compute.fast(),
        }
    }

    /// How many weights the matrices of a layer have.
    pub fn weights_of_layer(&self, l: usize) -> usize {
        self.layers[l].matrices().map(|(_, linear)| linear.weights()).sum()
    }

    /// Bytes of the weights as they are stored.
    fn bytes(&self) -> u64 {
        let matrices = self.layers.iter().flat_map(|layer| layer.matrices());
        let layers: u64 = matrices.map(|(_, linear)| linear.w.bytes()).sum();
        let positions = self.positions.as_ref().map_or(0, Weight::bytes);
        let head = if self.arch.tie_embeddings { 0 } else { self.head.w.bytes() };
        layers + self.embed.bytes() + positions + head
    }

    /// Whether weights are uploaded layer by layer in each pass, and evicted to make room for the
    /// next: where keeping them would leave a quarter of the device or less.
    pub fn offloads_weights(&self) -> bool {
        self.compute.engine().is_some_and(|e| self.bytes() > e.memory().limit / 4 * 3)
    }

    /// Bytes of the device that are free for other uses once the weights are there; `None` on the
    /// host. Offloaded weights are given half of the device.
    pub fn spare(&self) -> Option<u64> {
        let limit = self.compute.engine()?.memory().limit;
        let weights = if self.offloads_weights() { limit / 2 } else { self.bytes() };
        Some((limit - weights) / 4 * 3)
    }
}
