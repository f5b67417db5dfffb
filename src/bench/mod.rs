//! Floor 7: how close operations and stages come to what the machine can do.
//!
//! A row is a time (the median of some runs, and how far they lie apart) and a distance from a
//! limit that was measured in the same run: the rate of a copy for what moves bytes, the best rate
//! of any product for what multiplies. Products are checked here; the rest is by the tests' case
//! tables.

pub mod edit;
pub mod limits;
pub mod ops;
pub mod predict;
pub mod solves;
pub mod stages;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::tensor::Compute;

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Bytes that are moved.
    Bytes,
    /// Floating-point operations.
    Flop,
    /// Facts whose values are searched.
    Facts,
    /// Tokens that are run.
    Tokens,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `limits`, `ops`, `solves`, `stages` or `edit`.
    pub part: &'static str,
    /// What was run.
    pub name: String,
    /// On what.
    pub shape: String,
    /// Median.
    pub seconds: f64,
    /// Half of what lies between the quartiles.
    pub spread: f64,
    /// How much of `unit` a run does.
    pub work: f64,
    /// What `work` counts.
    pub unit: Unit,
    /// The most of it a second could do, where there is such a limit.
    pub limit: Option<f64>,
    /// Bytes of a device that it was counted to take, and those it took.
    pub held: Option<[u64; 2]>,
    /// How many recorded steps a device replayed.
    pub replays: Option<u64>,
}

impl Row {
    /// A row of a part: its name and on what, how long, how much a run does, and the limit.
    pub fn new(
        part: &'static str,
        [name, shape]: [String; 2],
        [seconds, spread]: [f64; 2],
        (work, unit): (f64, Unit),
        limit: Option<f64>,
    ) -> Row {
        Row { part, name, shape, seconds, spread, work, unit, limit, held: None, replays: None }
    }

    /// Of `unit`, a second.
    pub fn rate(&self) -> f64 {
        self.work / self.seconds
    }

    /// The part of the limit that was reached.
    pub fn of_limit(&self) -> Option<f64> {
        self.limit.map(|limit| self.rate() / limit)
    }
}

/// How large, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes that an operation of bandwidth moves, so that no cache holds them.
    pub bytes: usize,
    /// Side of a large product.
    pub side: usize,
    /// Seconds that a row may take.
    pub seconds: f64,
}

impl Sizes {
    /// For a GPU.
    pub const LARGE: Sizes = Sizes { bytes: 1 << 30, side: 8192, seconds: 0.3 };
    /// For a processor.
    pub const MIDDLE: Sizes = Sizes { bytes: 1 << 26, side: 1024, seconds: 0.3 };
    /// To see that everything runs.
    pub const SMALL: Sizes = Sizes { bytes: 1 << 12, side: 24, seconds: 0.0 };
}

/// Median seconds of `run`, and half of what lies between the quartiles.
pub fn time(compute: &Compute, seconds: f64, mut run: impl FnMut()) -> [f64; 2] {
    run(); // loads what is loaded once
    let (began, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || (began.elapsed().as_secs_f64() < seconds && times.len() < 1000) {
        times.push(compute.seconds(&mut run));
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[(part * (times.len() - 1) as f64).round() as usize];
    [at(0.5), (at(0.75) - at(0.25)) / 2.0]
}
