//! Blocks cut from large pieces of a device's memory. The driver's own allocations wait for the
//! card; these do not, and one stream gives a block's next user its turn after the last.

use std::collections::{BTreeMap, HashMap};

/// Addresses and sizes are multiples of it.
const ALIGN: u64 = 512;

/// The blocks of some pieces.
#[derive(Default)]
pub struct Pool {
    pieces: Vec<u64>,
    free: BTreeMap<u64, u64>, // address → bytes, no two side by side
    taken: HashMap<u64, u64>,
}

impl Pool {
    /// Adds a piece. Its end stays unused, so that blocks of two pieces never become one.
    pub fn add(&mut self, at: u64, bytes: u64) {
        self.pieces.push(at);
        let bytes = (bytes / ALIGN).saturating_sub(1) * ALIGN;
        if bytes > 0 {
            self.free.insert(at, bytes);
        }
    }

    /// The addresses of its pieces.
    pub fn pieces(&self) -> &[u64] {
        &self.pieces
    }

    /// Bytes of a piece that has room for a block of so many.
    pub fn piece(bytes: u64) -> u64 {
        bytes.next_multiple_of(ALIGN) + ALIGN
    }

    /// The smallest free block that is large enough, cut to size.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let bytes = bytes.max(1).next_multiple_of(ALIGN);
        let fits = self.free.iter().filter(|(_, free)| **free >= bytes);
        let (&at, &free) = fits.min_by_key(|(at, free)| (**free, **at))?;
        self.free.remove(&at);
        if free > bytes {
            self.free.insert(at + bytes, free - bytes);
        }
        self.taken.insert(at, bytes);
        Some(at)
    }

    /// Takes a block back and joins it with its free neighbours.
    pub fn give(&mut self, mut at: u64) {
        let mut bytes = self.taken.remove(&at).expect("a block that was taken");
        if let Some(after) = self.free.remove(&(at + bytes)) {
            bytes += after;
        }
        if let Some((&before, &free)) = self.free.range(..at).next_back()
            && before + free == at
        {
            (at, bytes) = (before, free + bytes);
        }
        self.free.insert(at, bytes);
    }
}
