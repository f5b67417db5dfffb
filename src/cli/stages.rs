//! Where a long command's time and memory went.

use std::time::Instant;

use serde_json::{Value, json};

use crate::base::memory;
use crate::base::units::metric;

/// What a command did from one progress line to the next.
#[derive(Clone)]
pub struct Stage {
    name: String,
    seconds: f64,
    peak: u64, // bytes the process had at most in it; 0 where the system does not say
}

/// The stages in the order they were first entered; one that comes back goes on.
pub struct Stages {
    done: Vec<Stage>,
    now: (String, Instant),
}

impl Default for Stages {
    fn default() -> Stages {
        Stages { done: Vec::new(), now: ("reading".to_owned(), Instant::now()) }
    }
}

impl Stages {
    /// Ends the stage that runs, and begins another.
    pub fn enter(&mut self, name: &str) {
        if name == self.now.0 {
            return;
        }
        let (last, since) = std::mem::replace(&mut self.now, (name.to_owned(), Instant::now()));
        let (seconds, peak) = (since.elapsed().as_secs_f64(), memory::peak());
        match self.done.iter_mut().find(|stage| stage.name == last) {
            Some(stage) => {
                stage.seconds += seconds;
                stage.peak = stage.peak.max(peak);
            }
            None => self.done.push(Stage { name: last, seconds, peak }),
        }
    }

    /// All of them; the one that runs counts up to now.
    pub fn all(&mut self) -> Vec<Stage> {
        let running = self.now.0.clone();
        self.enter("");
        self.now.0 = running;
        self.done.clone()
    }
}

/// `fact 12.5 s (781 MB), layer 3.1 s (612 MB)`.
pub fn line(stages: &[Stage]) -> String {
    let each = |s: &Stage| format!("{} {:.1} s ({}B)", s.name, s.seconds, metric(s.peak as f64));
    stages.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// All of them.
pub fn seconds(stages: &[Stage]) -> f64 {
    stages.iter().map(|s| s.seconds).sum()
}

/// For machines.
pub fn to_json(stages: &[Stage]) -> Value {
    let each = |s: &Stage| json!({"stage": s.name, "seconds": s.seconds, "peak_bytes": s.peak});
    stages.iter().map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_comes_back_goes_on() {
        let mut stages = Stages::default();
        for name in ["a", "b", "a", "a"] {
            stages.enter(name);
        }
        let names = |all: &[Stage]| all.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let all = stages.all();
        assert_eq!(names(&all), ["reading", "a", "b"]);
        assert!(all.iter().all(|s| s.seconds >= 0.0));
        let again = stages.all();
        assert_eq!(names(&again), names(&all));
        assert!(again[1].seconds > all[1].seconds, "the last one runs on");
    }
}
