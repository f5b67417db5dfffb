//! Weights on a device: uploaded when they are first used, put out when room is needed.
//!
//! What was used longest ago goes first. A pass runs up through the layers and down again, so the
//! layers it turns round at stay, and a model larger than the card is loaded once a direction.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::engine::{Array, Engine};

/// Where a weight's elements are: an array on each device that asked for them.
#[derive(Default)]
pub struct Slot(Mutex<Vec<Arc<Array>>>);

/// The slots of a device, the one used longest ago first.
#[derive(Default)]
pub(super) struct Residents(Mutex<VecDeque<Weak<Slot>>>);

impl Slot {
    pub(super) fn get(&self, engine: &Engine) -> Option<Arc<Array>> {
        self.lock().iter().find(|array| array.engine() == engine).cloned()
    }

    pub(super) fn put(&self, array: &Arc<Array>) {
        let mut arrays = self.lock();
        arrays.retain(|a| a.engine() != array.engine()); // another thread's, of the same elements
        arrays.push(array.clone());
    }

    /// The array of a device, if nobody else holds it; nobody finds it any more.
    fn take(&self, engine: &Engine) -> Option<Arc<Array>> {
        let mut arrays = self.lock();
        let alone = |a: &Arc<Array>| a.engine() == engine && Arc::strong_count(a) == 1;
        let i = arrays.iter().position(alone)?;
        Some(arrays.swap_remove(i))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Array>>> {
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

    /// Puts one weight out of the device whose slots these are; false where none can be: whoever
    /// holds an array goes on holding it.
    pub fn evict(&self, engine: &Engine) -> bool {
        self.lock().iter().filter_map(Weak::upgrade).find_map(|slot| slot.take(engine)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Weak<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
