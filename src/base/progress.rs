//! How long work reports that it advances, and how it learns that it was cancelled.

use std::fmt;

use super::Remedy;

/// What a long computation tells its caller. The library prints nothing itself.
pub trait Progress: Sync {
    /// `done` of `total` units (tokens, facts, bytes) of a stage are finished.
    fn at(&self, stage: Stage, done: u64, total: u64);

    /// How the work that [`at`](Progress::at) counts is doing, in a few words.
    fn detail(&self, _words: &str) {}

    /// What was decided before the work begins: settings, costs, what was found before.
    fn remark(&self, _sentence: &str) {}

    /// A sentence the user should read: what happened, what it may mean, what to do.
    fn warn(&self, sentence: &str);

    /// A warning, and what helps.
    fn advise(&self, sentence: &str, remedy: &Remedy) {
        self.warn(&format!("{sentence}; {remedy}"));
    }

    /// True once the user cancelled; the work then keeps what is finished and returns
    /// [`Error::Interrupted`](super::Error::Interrupted).
    fn cancelled(&self) -> bool;
}

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

/// Reports nothing and is never cancelled.
pub struct Quiet;

impl Progress for Quiet {
    fn at(&self, _: Stage, _: u64, _: u64) {}
    fn warn(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        false
    }
}
