//! Stages of long work, and where its time and memory went.

use std::fmt;
use std::time::Instant;

use super::memory;
use super::units::metric;

/// What a long computation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Opens and checks model, requests and settings.
    Open,
    /// Asks a device whether its kernels give what they should.
    Proof,
    /// Searches values, fact by fact.
    Fact,
    /// Takes the steps of one search.
    Step,
    /// Trains matrices, epoch by epoch.
    Epoch,
    /// Trains what edits, sample by sample.
    Sample,
    /// Computes the change, layer by layer.
    Layer,
    /// Finds the directions that text does not use, layer by layer.
    NullSpace,
    /// Measures how a model takes the targets, fact by fact.
    Probability,
    /// Edits and measures cases, some at a time.
    Case,
    /// Measures a model on cases.
    Measure,
    /// Asks what tasks ask, some documents at a time.
    Task,
    /// Runs the tokens of a corpus.
    Token,
    /// Adds up key statistics.
    Statistics,
    /// Runs prompts.
    Prompt,
    /// Runs a corrupted prompt with states of the clean one.
    Restoration,
    /// Holds weights against what a patch was made for, in bytes.
    CheckWeights,
    /// Rounds changed weights to the stored type, in bytes.
    RoundWeights,
    /// Writes weights, in bytes.
    WriteWeights,
    /// Approximates changes by an adapter, matrix by matrix.
    Matrix,
    /// Writes the results.
    WriteResults,
}

impl Stage {
    /// Whether it is a part of one unit of another, which already shows how far the work is.
    pub fn is_inside(self, other: Stage) -> bool {
        matches!(self, Stage::Step | Stage::Restoration) && other == Stage::Fact
    }

    /// As it is shown, and as a key in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Open => "reading",
            Stage::Proof => "proof",
            Stage::Fact => "fact",
            Stage::Step => "step",
            Stage::Epoch => "epoch",
            Stage::Sample => "sample",
            Stage::Layer => "layer",
            Stage::NullSpace => "null space",
            Stage::Probability => "probability",
            Stage::Case => "edited and measured",
            Stage::Measure => "measured",
            Stage::Task => "task",
            Stage::Token => "token",
            Stage::Statistics => "statistics",
            Stage::Prompt => "prompt",
            Stage::Restoration => "restoration",
            Stage::CheckWeights => "check",
            Stage::RoundWeights => "rounding",
            Stage::WriteWeights => "write",
            Stage::Matrix => "matrix",
            Stage::WriteResults => "writing",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What work did in a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// How long it took.
    pub seconds: f64,
    /// Bytes the process had at most in it; 0 where the system does not say.
    pub peak: u64,
}

/// The stages in the order they were first entered; one that comes back goes on.
pub struct Stages {
    done: Vec<StageTime>,
    now: (Stage, Instant),
    peak: fn() -> u64,
}

impl Default for Stages {
    fn default() -> Stages {
        Stages { done: Vec::new(), now: (Stage::Open, Instant::now()), peak: memory::peak }
    }
}

impl Stages {
    /// Without memory: to count its peak begins it anew, which is for the process's own program to
    /// do.
    pub fn timed() -> Stages {
        Stages { peak: || 0, ..Stages::default() }
    }

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
        let peak = (self.peak)();
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
