//! Where a long command's time and memory went.

use std::time::Instant;

use serde_json::{Value, json};

use crate::base::units::metric;
use crate::base::{Stage, memory};

/// What a command did from one progress line to the next.
#[derive(Clone)]
pub struct StageTime {
    stage: Stage,
    seconds: f64,
    peak: u64, // bytes the process had at most in it; 0 where the system does not say
}

/// The stages in the order they were first entered; one that comes back goes on.
pub struct Stages {
    done: Vec<StageTime>,
    now: (Stage, Instant),
}

impl Default for Stages {
    fn default() -> Stages {
        Stages { done: Vec::new(), now: (Stage::Open, Instant::now()) }
    }
}

impl Stages {
    /// Ends the stage that runs, and begins another.
    pub fn enter(&mut self, stage: Stage) {
        if stage != self.now.0 {
            self.count();
            self.now.0 = stage;
        }
    }

    /// Adds what passed since the last count to the stage that runs.
    fn count(&mut self) {
        let (stage, since) = self.now;
        let now = Instant::now();
        let seconds = now.duration_since(since).as_secs_f64();
        let peak = memory::peak();
        self.now.1 = now;
        match self.done.iter_mut().find(|time| time.stage == stage) {
            Some(time) => {
                time.seconds += seconds;
                time.peak = time.peak.max(peak);
            }
            None => self.done.push(StageTime { stage, seconds, peak }),
        }
    }

    /// All of them; the one that runs counts up to now.
    pub fn all(&mut self) -> Vec<StageTime> {
        self.count();
        self.done.clone()
    }
}

/// `fact 12.5 s (781 MB), layer 3.1 s (612 MB)`.
pub fn line(stages: &[StageTime]) -> String {
    let each =
        |s: &StageTime| format!("{} {:.1} s ({}B)", s.stage, s.seconds, metric(s.peak as f64));
    stages.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// All of them.
pub fn seconds(stages: &[StageTime]) -> f64 {
    stages.iter().map(|s| s.seconds).sum()
}

/// For machines.
pub fn to_json(stages: &[StageTime]) -> Value {
    let each = |s: &StageTime| {
        let stage = s.stage.name();
        json!({"stage": stage, "seconds": s.seconds, "peak_bytes": s.peak})
    };
    stages.iter().map(each).collect()
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_stage_that_comes_back_goes_on() {
        const NAP: Duration = Duration::from_millis(2);
        let began = Instant::now();
        let mut stages = Stages::default();
        for stage in [Stage::Fact, Stage::Layer, Stage::Fact, Stage::Fact] {
            sleep(NAP);
            stages.enter(stage);
        }
        let names = |all: &[StageTime]| all.iter().map(|s| s.stage.name()).collect::<Vec<_>>();
        let all = stages.all();
        let wall = began.elapsed().as_secs_f64();
        assert_eq!(names(&all), ["reading", "fact", "layer"]);
        // Each had a nap, the fact two; and all of them together are the time that passed.
        let nap = NAP.as_secs_f64();
        let least = [nap, 2.0 * nap, nap];
        assert!(all.iter().zip(least).all(|(s, least)| s.seconds >= least));
        assert!(seconds(&all) <= wall, "{} of {wall} s", seconds(&all));
        let again = stages.all();
        assert_eq!(names(&again), names(&all));
        assert!(again[1].seconds > all[1].seconds, "the last one runs on");
    }
}
