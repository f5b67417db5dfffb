//! What the layers of a pass share: the batch and what is computed of it once, the past, the hook,
//! and buffers that each layer writes anew.

use std::sync::Arc;

use super::batch::Batch;
use super::cache::Past;
use super::matrix::Matrix;
use super::rotary::Rotary;
use super::site::{At, Hook, Site};
use crate::base::or_unwind;
use crate::ops::attention::{Heads, Packing};
use crate::ops::rope::Angles;
use crate::ops::rows;
use crate::tensor::{Compute, Tensor};

/// What a layer sees of the pass that runs it.
pub(super) struct Pass<'a> {
    pub batch: &'a Batch,
    pub tables: &'a BatchTables,
    pub past: Past<'a>,
    pub hook: &'a mut dyn Hook,
    /// The layer that is running.
    pub layer: usize,
}

impl Pass<'_> {
    /// Whether the hook asks for a site of the layer that is running.
    pub fn shows(&self, at: At) -> bool {
        self.hook.sites().contains(&Site { layer: self.layer, at })
    }

    /// Whether the hook asks for what a matrix of the layer reads or gives.
    pub fn shows_either(&self, matrix: Matrix) -> bool {
        self.shows(At::Input(matrix)) || self.shows(At::Output(matrix))
    }

    /// Hands the hook the tensor at a site, if it asks for that.
    pub fn show(&mut self, at: At, shown: &mut Tensor) {
        if self.shows(at) {
            self.hook.forward(Site { layer: self.layer, at }, self.batch, shown);
        }
    }

    /// Hands the hook the gradient at a site, if it asks for that.
    pub fn show_gradient(&mut self, at: At, gradient: &Tensor) {
        if self.shows(at) {
            self.hook.backward(Site { layer: self.layer, at }, self.batch, gradient);
        }
    }

    /// Keys and values of the layer's past.
    pub fn past(&self) -> (&Tensor, &Tensor) {
        match &self.past {
            Past::None => (&self.tables.empty, &self.tables.empty),
            Past::Read(cache) => cache.layer(self.layer),
            Past::Grow(cache) => cache.layer(self.layer),
        }
    }
}

/// What is computed once a batch, for all layers.
pub(super) struct BatchTables {
    batch: Option<Arc<()>>, // the version of the batch that the rest belongs to
    angles: Vec<Angles>,    // of each of the model's rotary tables
    packings: Vec<(Shape, Packing)>, // of each form of heads, on a device
    empty: Tensor,          // (0, 0): no past
}

/// Of heads, what their packing depends on: H, G, E.
type Shape = [usize; 3];

fn shape(heads: Heads) -> Shape {
    [heads.queries, heads.groups, heads.width]
}

impl BatchTables {
    /// Of no batch yet.
    pub fn new(compute: &Compute) -> BatchTables {
        BatchTables {
            batch: None,
            angles: Vec::new(),
            packings: Vec::new(),
            empty: Tensor::narrow(compute, &[0, 0]),
        }
    }

    /// Becomes that of a batch, for layers with these rotary tables and heads.
    pub fn fit(
        &mut self,
        compute: &Compute,
        batch: &Batch,
        rotary: &[Rotary],
        heads: impl Iterator<Item = Heads>,
    ) {
        if self.batch.as_ref().is_some_and(|version| Arc::ptr_eq(version, batch.version())) {
            return;
        }
        self.batch = Some(batch.version().clone());
        self.angles = rotary.iter().map(|r| r.angles(compute, &batch.positions)).collect();
        self.packings.clear();
        let Some(engine) = compute.engine() else { return };
        for heads in heads {
            if self.packing(heads).is_none() {
                let packing = or_unwind(Packing::of(engine, &batch.seqs, heads));
                self.packings.push((shape(heads), packing));
            }
        }
    }

    /// The batch's angles by one of the model's rotary tables.
    pub fn angles(&self, table: usize) -> &Angles {
        &self.angles[table]
    }

    /// How the batch is packed on the device, for such heads.
    pub fn packing(&self, heads: Heads) -> Option<&Packing> {
        self.packings.iter().find(|(of, _)| *of == shape(heads)).map(|(_, packing)| packing)
    }
}

/// Buffers of a pass, in which nothing stays from layer to layer but an output that is pending.
pub(super) struct Buffers {
    /// (N, D), what the bodies of a layer read.
    pub input: Tensor,
    /// (N, H·E), what attention's output projection reads.
    pub attended: Tensor,
    /// (N, F), what the down projection reads.
    pub key: Tensor,
    /// (N, D), what a branch adds to the stream.
    pub output: Tensor,
    /// Whether `output` has yet to join the stream.
    pub pending: bool,
}

impl Buffers {
    /// Without rows.
    pub fn new(compute: &Compute) -> Buffers {
        let narrow = || Tensor::narrow(compute, &[0, 0]);
        Buffers {
            input: narrow(),
            attended: narrow(),
            key: narrow(),
            output: Tensor::zeros(compute, &[0, 0]),
            pending: false,
        }
    }

    /// x ← x + the output that is pending, if one is.
    pub fn settle(&mut self, x: &mut Tensor) {
        if std::mem::take(&mut self.pending) {
            rows::add(x, &self.output);
        }
    }
}
