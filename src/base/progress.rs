//! How long work reports that it advances, and how it learns that it should stop.

/// What a long computation tells its caller. The library prints nothing itself.
pub trait Progress: Sync {
    /// `done` of `total` units (tokens, facts, bytes) of `what` are finished.
    fn at(&self, what: &str, done: u64, total: u64);

    /// How the work that [`at`](Progress::at) counts is doing, in a few words.
    fn detail(&self, _words: &str) {}

    /// What was decided before the work begins: settings, costs, what was found before.
    fn remark(&self, _sentence: &str) {}

    /// A sentence the user should read: what happened, what it may mean, what to do.
    fn warn(&self, sentence: &str);

    /// True once the user asked to stop; the work then keeps what is finished and returns
    /// [`Error::Interrupted`](super::Error::Interrupted).
    fn stop(&self) -> bool;
}

/// Says nothing and never stops.
pub struct Quiet;

impl Progress for Quiet {
    fn at(&self, _: &str, _: u64, _: u64) {}
    fn warn(&self, _: &str) {}
    fn stop(&self) -> bool {
        false
    }
}
