//! A lock whose holder removes its file has one holder at a time.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use incise::store::lock::Lock;

#[test]
fn a_lock_whose_file_is_removed_has_one_holder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let (inside, held) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..4_000 {
                    let Ok(_lock) = Lock::alone(&path, "another thread") else { continue };
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                    thread::yield_now();
                    held.fetch_add(1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    fs::remove_file(&path).unwrap(); // the last that it does
                }
            });
        }
    });
    assert!(held.into_inner() > 0);
}
