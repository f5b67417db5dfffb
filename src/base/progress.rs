//! How long work reports that it advances, and how it learns that it was cancelled.

use super::Remedy;
use super::stages::{Stage, StageTime};

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

    /// What the work did so far, stage by stage; nothing where nobody counts.
    fn stages(&self) -> Vec<StageTime> {
        Vec::new()
    }

    /// True once the user cancelled; the work then keeps what is finished and returns
    /// [`Error::Interrupted`](super::Error::Interrupted).
    fn cancelled(&self) -> bool;
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
