//! Weights on devices: uploaded on first use, evicted least recently used first.

use std::sync::{Arc, Mutex, MutexGuard};

use super::array::Array;
use super::engine::Engine;
use super::launch::Elem;
use super::lock::lock;
use super::resident::Resident;
use crate::base::Result;

/// A weight's elements on each device that has used them.
#[derive(Default)]
pub struct WeightSlot(Mutex<Vec<Arc<Array>>>);

impl WeightSlot {
    fn get(&self, engine: &Engine) -> Option<Arc<Array>> {
        self.lock().iter().find(|array| array.engine() == engine).cloned()
    }

    fn put(&self, array: &Arc<Array>) {
        self.lock().push(array.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Array>>> {
        lock(&self.0)
    }
}

impl Resident for WeightSlot {
    fn evict(&self, device: usize) -> bool {
        let mut arrays = self.lock();
        let alone = |a: &Arc<Array>| a.engine().id() == device && Arc::strong_count(a) == 1;
        let found = arrays.iter().position(alone).map(|i| arrays.swap_remove(i));
        drop(arrays);
        found.is_some()
    }
}

impl Engine {
    /// The elements of a weight on this device, which `fill` writes there piece by piece if they
    /// are not: it gets the offset of a piece in bytes, and the piece.
    ///
    /// # Errors
    ///
    /// The device has no more memory, or the weight is not there while a recording is made.
    pub fn resident(
        &self,
        slot: &Arc<WeightSlot>,
        elem: Elem,
        len: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<Arc<Array>> {
        let _hold = self.hold();
        self.used(slot);
        let bytes = len * elem.size();
        let found = slot.get(self);
        if let Some(capture) = &mut *self.capturing() {
            let array = found.ok_or_else(|| self.no_room(bytes as u64))?;
            capture.weights.push(array.clone());
            return Ok(array);
        }
        if let Some(array) = found {
            return Ok(array);
        }
        let array = Arc::new(self.array(elem, len)?);
        self.fill(array.slice().at, bytes, fill);
        slot.put(&array);
        Ok(array)
    }
}
