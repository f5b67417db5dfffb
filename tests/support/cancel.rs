//! Cancellation at a chosen moment, whatever the machine's speed.

use std::sync::atomic::{AtomicU64, Ordering};

use incise::base::{Progress, Stage};

/// Cancelled from the n-th question on; the first is 1.
pub struct CancelAt {
    n: u64,
    asked: AtomicU64,
}

impl CancelAt {
    pub fn question(n: u64) -> CancelAt {
        CancelAt { n, asked: AtomicU64::new(0) }
    }
}

impl Progress for CancelAt {
    fn at(&self, _: Stage, done: u64, total: u64) {
        assert!(done <= total);
    }

    fn warn(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst) + 1 >= self.n
    }
}
