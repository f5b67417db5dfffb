//! Cancellation at a chosen moment, whatever the machine's speed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use incise::base::{Progress, Stage};

/// Cancelled from the n-th question on; the first is 1. Keeps what was remarked, and warned of.
pub struct CancelAt {
    n: u64,
    asked: AtomicU64,
    pub remarks: Arc<Mutex<Vec<String>>>,
    pub warnings: Arc<Mutex<Vec<String>>>,
}

impl CancelAt {
    pub fn question(n: u64) -> CancelAt {
        let asked = AtomicU64::new(0);
        CancelAt { n, asked, remarks: Arc::default(), warnings: Arc::default() }
    }

    pub fn never() -> CancelAt {
        CancelAt::question(u64::MAX)
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Whether something was remarked that has these words.
    pub fn heard(&self, words: &str) -> bool {
        self.remarks.lock().unwrap().iter().any(|remark| remark.contains(words))
    }
}

impl Progress for CancelAt {
    fn at(&self, _: Stage, done: u64, total: u64) {
        assert!(done <= total);
    }

    fn remark(&self, sentence: &str) {
        self.remarks.lock().unwrap().push(sentence.to_owned());
    }

    fn warn(&self, warning: &str) {
        self.warnings.lock().unwrap().push(warning.to_owned());
    }

    fn cancelled(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst) + 1 >= self.n
    }
}
