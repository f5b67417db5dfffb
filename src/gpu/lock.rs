//! Locking where no thread leaves a value half changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The value, also after a thread panicked with it in hand.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
