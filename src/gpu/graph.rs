//! Launches recorded once and replayed: what a step enqueues is the same each time, and enqueuing
//! it takes longer than a small step runs.
//!
//! ```text
//! 1st time   run            memory and kernels that are needed for the first time are got here
//! 2nd time   record         enqueues nothing; memory freed meanwhile stays the recording's
//!            replay
//! 3rd …      replay
//! ```
//!
//! A recording is of addresses. So it holds the weights it reads, and the memory of arrays that
//! came and went while it was made; arrays that were there before must outlive it.

use std::sync::Arc;

use super::engine::{Array, Engine};

/// What the driver made of a recording.
pub(super) enum Tape {
    Cuda(super::cuda::Tape),
    Twin(super::twin::Tape),
}

/// What belongs to a recording.
#[derive(Default)]
pub(super) struct Holdings {
    /// Addresses and bytes of arrays that were freed.
    pub freed: Vec<(u64, u64)>,
    /// Weights.
    pub weights: Vec<Arc<Array>>,
}

impl Holdings {
    /// A freed block of just so many bytes.
    pub fn reuse(&mut self, bytes: u64) -> Option<u64> {
        let found = self.freed.iter().position(|(_, free)| *free == bytes)?;
        Some(self.freed.swap_remove(found).0)
    }
}

/// A recording.
pub struct Graph {
    pub(super) tape: Tape,
    pub(super) holdings: Holdings,
    pub(super) engine: Engine, // last: it may be the one that closes the card
}

impl Graph {
    /// Enqueues what was recorded.
    pub fn replay(&self) {
        self.engine.replay(&self.tape);
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.engine.give_back(std::mem::take(&mut self.holdings));
    }
}

/// Something that is run again and again: the same launches, until [`Repeated::changed`].
#[derive(Default)]
pub struct Repeated {
    ran: bool,
    graph: Option<Graph>,
    unfit: bool,
}

impl Repeated {
    /// What is run enqueues something else from now on.
    pub fn changed(&mut self) {
        (self.ran, self.graph) = (false, None);
    }

    /// Runs it, by a recording from the second time on. Without an engine it is just run, and so
    /// it is where not all weights are on the device at once.
    pub fn run(&mut self, engine: Option<&Engine>, mut run: impl FnMut()) {
        if let (Some(engine), true, false, None) = (engine, self.ran, self.unfit, &self.graph) {
            self.graph = engine.record(&mut run);
            self.unfit = self.graph.is_none();
        }
        match &self.graph {
            Some(graph) => graph.replay(),
            None => run(),
        }
        self.ran = true;
    }
}
