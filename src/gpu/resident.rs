//! Which weights are on a device, least recently used first.
//!
//! A pass runs up through the layers and down again, so the layers it turns round at stay, and a
//! model larger than the card is loaded once a direction.

use std::collections::VecDeque;
use std::ptr::addr_eq;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::lock::lock;

/// What may be on a device and can be put there again.
pub(super) trait Resident: Send + Sync {
    /// Frees what it has on a device, if nobody else uses it. Whether it did.
    fn evict(&self, device: usize) -> bool;
}

/// What is on one device.
#[derive(Default)]
pub(super) struct Residents(Mutex<VecDeque<Weak<dyn Resident>>>);

impl Residents {
    /// Makes it the most recently used.
    pub fn used(&self, resident: Arc<dyn Resident>) {
        let this = Arc::downgrade(&resident);
        let mut all = self.lock();
        all.retain(|r| !addr_eq(r.as_ptr(), this.as_ptr()) && r.strong_count() > 0);
        all.push_back(this);
    }

    /// Evicts the least recently used that nobody uses; false where there is none.
    pub fn evict(&self, device: usize) -> bool {
        self.lock().iter().filter_map(Weak::upgrade).any(|resident| resident.evict(device))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Weak<dyn Resident>>> {
        lock(&self.0)
    }
}
