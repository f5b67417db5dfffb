//! Blocks cut from large pieces of a device's memory. The driver's own allocations wait for the
//! card; these do not, and one stream gives a block's next user its turn after the last.
//!
//! ```text
//! piece of 1 GiB   │ taken │ free      │ taken │     its blocks; a new one is cut from the
//! piece of 2.1 GB  │ taken                     │     smallest free one that is large enough
//! ```

use std::collections::{BTreeMap, HashMap};

/// Addresses and sizes are multiples of it.
const ALIGN: u64 = 512;

/// A piece has at least so many bytes; where the driver has not as many, the next of these.
const PIECES: [u64; 4] = [1 << 30, 1 << 28, 1 << 26, 0];

/// The blocks of some pieces.
#[derive(Default)]
pub struct Pool {
    pieces: BTreeMap<u64, u64>, // address → bytes that blocks may have
    free: BTreeMap<u64, u64>,   // address → bytes, no two side by side
    taken: HashMap<u64, u64>,
}

impl Pool {
    /// A block, of a piece that there is or of a new one, which `get` gets from the driver: it has
    /// the bytes of the piece, and gives its address where there is as much memory.
    pub fn allocate(&mut self, bytes: u64, get: &mut dyn FnMut(u64) -> Option<u64>) -> Option<u64> {
        if let Some(at) = self.take(bytes) {
            return Some(at);
        }
        let piece = PIECES.into_iter().find_map(|least| {
            let piece = Pool::piece(bytes).max(least);
            Some((get(piece)?, piece))
        });
        let (at, piece) = piece?;
        self.add(at, piece);
        self.take(bytes)
    }

    /// Adds a piece. Its end stays unused, so that blocks of two pieces never become one.
    pub fn add(&mut self, at: u64, bytes: u64) {
        let bytes = (bytes / ALIGN).saturating_sub(1) * ALIGN;
        self.pieces.insert(at, bytes);
        if bytes > 0 {
            self.free.insert(at, bytes);
        }
    }

    /// Gives up the pieces that no block is taken of: their addresses.
    pub fn give_up(&mut self) -> Vec<u64> {
        let unused = |(at, bytes): &(&u64, &u64)| self.free.get(at) == Some(bytes);
        let unused: Vec<u64> = self.pieces.iter().filter(unused).map(|(&at, _)| at).collect();
        for at in &unused {
            self.pieces.remove(at);
            self.free.remove(at);
        }
        unused
    }

    /// The addresses of its pieces.
    pub fn pieces(&self) -> impl Iterator<Item = u64> {
        self.pieces.keys().copied()
    }

    /// Bytes that its pieces have together.
    pub fn bytes(&self) -> u64 {
        self.pieces.values().map(|&bytes| Pool::piece(bytes)).sum()
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
