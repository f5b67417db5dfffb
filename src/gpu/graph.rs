//! Launches recorded once and replayed: what a step enqueues is the same each time, and enqueuing
//! it takes longer than a small step runs.
//!
//! ```text
//! 1st time   run            memory and kernels that are needed for the first time are got here;
//!                           and again, where the driver had to give memory
//! 2nd time   record         enqueues nothing; memory freed meanwhile stays the recording's
//!            replay
//! 3rd …      replay
//! ```
//!
//! A recording is of addresses. So it holds the weights it reads, and the memory of arrays that
//! came and went while it was made; arrays that were there before must outlive it. Each of the four
//! holds the device: nothing that another thread does is recorded, or comes between.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::engine::{Capture, DriverGraph, Engine};
use crate::base::Error;

/// A recording.
pub struct Graph {
    graph: DriverGraph,
    capture: Capture,
    engine: Engine, // last: it may be the one that closes the card
}

impl Engine {
    /// Records what `run` enqueues, instead of running it; nothing, and a warning, where a weight
    /// is not on the device, there is no room, or the driver cannot. `run` must neither upload nor
    /// download anything.
    pub fn record(&self, run: impl FnOnce()) -> Option<Graph> {
        let _hold = self.hold();
        self.begin_capture();
        let ran = catch_unwind(AssertUnwindSafe(run));
        let (graph, capture) = self.end_capture();
        let why = match (ran, graph) {
            (Ok(()), Ok(graph)) => return Some(Graph { graph, capture, engine: self.clone() }),
            (Ok(()), Err(why)) => why,
            (Err(panic), _) => match panic.downcast::<Error>() {
                Ok(error) => error.to_string(),
                Err(panic) => {
                    capture.give_back(self);
                    resume_unwind(panic)
                }
            },
        };
        capture.give_back(self);
        self.note(format!(
            "a step was not recorded, so its launches are enqueued one by one, which takes longer \
             where it is small: {why}"
        ));
        None
    }
}

impl Graph {
    /// Enqueues what was recorded.
    pub fn replay(&self) {
        self.engine.replay(&self.graph);
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        std::mem::take(&mut self.capture).give_back(&self.engine);
    }
}

impl Capture {
    /// Frees what the recording had.
    fn give_back(self, engine: &Engine) {
        self.freed.into_iter().for_each(|block| engine.free(block));
    }
}

/// Something that is run again and again: the same launches, until [`Repeated::changed`].
#[derive(Default)]
pub struct Repeated {
    ran: bool,
    graph: Option<Graph>,
    cannot_record: bool,
}

impl Repeated {
    /// What is run enqueues something else from now on.
    pub fn changed(&mut self) {
        self.ran = false;
        self.graph = None;
    }

    /// Runs it, by a recording from the second time on. Without an engine it is just run, and so
    /// it is where not all weights are on the device at once, or where launches are waited for: a
    /// replay would not tell which failed.
    pub fn run(&mut self, engine: Option<&Engine>, mut run: impl FnMut()) {
        let _hold = engine.map(Engine::hold);
        if let Some(engine) = engine
            && self.ran
            && self.graph.is_none()
            && !self.cannot_record
            && !engine.waits()
        {
            self.graph = engine.record(&mut run);
            self.cannot_record = self.graph.is_none();
        }
        match &self.graph {
            Some(graph) => graph.replay(),
            None => {
                let pieces = engine.map(Engine::pieces);
                run();
                // A recording takes the same again. Its driver may be asked for memory meanwhile,
                // but need not be.
                self.ran = engine.map(Engine::pieces) == pieces;
            }
        }
    }
}
