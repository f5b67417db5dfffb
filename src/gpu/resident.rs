//! Weights on a device: uploaded when they are first used, put out when room is needed.
//!
//! What was used longest ago goes first. A pass runs up through the layers and down again, so the
//! layers it turns round at stay, and a model larger than the card is loaded once a direction.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::engine::Array;

/// Where a weight's elements are once they are on a device.
#[derive(Default)]
pub struct Slot(Mutex<Option<Arc<Array>>>);

/// The slots of a device, the one used longest ago first.
#[derive(Default)]
pub(super) struct Residents(Mutex<VecDeque<Weak<Slot>>>);

impl Slot {
    pub(super) fn get(&self) -> Option<Arc<Array>> {
        self.lock().clone()
    }

    pub(super) fn put(&self, array: &Arc<Array>) {
        *self.lock() = Some(array.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Array>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Residents {
    /// Moves a slot to the end.
    pub fn used(&self, slot: &Arc<Slot>) {
        let mut slots = self.lock();
        let this = Arc::as_ptr(slot);
        slots.retain(|s| s.as_ptr() != this && s.strong_count() > 0);
        slots.push_back(Arc::downgrade(slot));
    }

    /// Puts one weight out; false where none can be: whoever holds an array goes on holding it.
    pub fn evict(&self) -> bool {
        let slots = self.lock();
        let full = slots
            .iter()
            .filter_map(Weak::upgrade)
            .find(|slot| slot.lock().as_ref().is_some_and(|array| Arc::strong_count(array) == 1));
        full.is_some_and(|slot| slot.lock().take().is_some())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Weak<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
