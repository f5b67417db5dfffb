//! Small uploads, by way of pinned memory: the driver may read what it copies later than it is
//! called, so it reads this, and never the caller's bytes, which may be gone by then.
//!
//! ```text
//! half 0   a │ b │ c │        uploads fill one half, then the other; an event is recorded behind
//! half 1   d │ …              the last of a half, and waited for before the half is filled again
//! ```

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::context::Context;
use super::lock::lock;

type Answer<T> = Result<T, DriverError>;

/// Bytes of a half.
const HALF: usize = 512 << 10;

/// Two halves of a buffer that are filled in turn. `E` tells when what was copied from a half is
/// read.
pub struct Ring<E> {
    bytes: usize, // of a half
    now: usize,   // the half that is filled
    used: usize,  // bytes of it
    copied: [Option<E>; 2],
}

impl<E> Ring<E> {
    /// Halves of so many bytes.
    pub fn new(bytes: usize) -> Ring<E> {
        Ring { bytes, now: 0, used: 0, copied: [None, None] }
    }

    /// Where `bytes` bytes, no more than a half, may be written. On the way to the other half
    /// `mark` gives what tells when this one is read, and `wait` waits for the other.
    ///
    /// # Errors
    ///
    /// Those of `mark` and `wait`.
    pub fn place<X>(
        &mut self,
        bytes: usize,
        mark: impl FnOnce() -> Result<E, X>,
        wait: impl FnOnce(E) -> Result<(), X>,
    ) -> Result<usize, X> {
        assert!(bytes <= self.bytes, "{bytes} bytes are not few");
        if self.used + bytes > self.bytes {
            self.copied[self.now] = Some(mark()?);
            (self.now, self.used) = (1 - self.now, 0);
            if let Some(before) = self.copied[self.now].take() {
                wait(before)?;
            }
        }
        let at = self.now * self.bytes + self.used;
        self.used += bytes;
        Ok(at)
    }
}

/// The pinned buffer of a card.
pub(super) struct Staging {
    context: Arc<Context>,
    buffer: *mut c_void,
    ring: Mutex<Ring<Event>>,
}

// SAFETY: the buffer is written by whoever has the ring, and read by the driver.
unsafe impl Send for Staging {}
// SAFETY: as above.
unsafe impl Sync for Staging {}

/// An event, destroyed when this is dropped.
struct Event(sys::CUevent);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// Behind what is enqueued on a stream so far.
    fn record(stream: sys::CUstream) -> Answer<Event> {
        let event = Event(result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?);
        // SAFETY: event and stream are of the context that is current.
        unsafe { result::event::record(event.0, stream) }.map(|()| event)
    }

    fn wait(self) -> Answer<()> {
        // SAFETY: it was recorded.
        unsafe { result::event::synchronize(self.0) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `record`, in the context that is current wherever one is dropped.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

impl Staging {
    /// Takes the buffer.
    pub fn open(context: &Arc<Context>) -> Answer<Staging> {
        // SAFETY: the context is current.
        let buffer = unsafe { result::malloc_host(2 * HALF, 0) }?;
        Ok(Staging { context: context.clone(), buffer, ring: Mutex::new(Ring::new(HALF)) })
    }

    /// Enqueues the copy of some bytes, no more than a half, to `at`. They are read before this
    /// returns.
    pub fn send(&self, stream: sys::CUstream, at: u64, bytes: &[u8]) -> Answer<()> {
        let mut ring = lock(&self.ring);
        let from = ring.place(bytes.len(), || Event::record(stream), Event::wait)?;
        // SAFETY: a part of the buffer that no copy under way reads, and that nobody else has while
        // the ring is locked.
        let staged = unsafe {
            std::slice::from_raw_parts_mut(self.buffer.cast::<u8>().add(from), bytes.len())
        };
        staged.copy_from_slice(bytes);
        // SAFETY: the array that begins at `at` has as many bytes, and the part stays as it is
        // until the copy is made.
        unsafe { result::memcpy_htod_async(at, staged, stream) }
    }
}

impl Drop for Staging {
    /// Whoever drops it has waited for the stream.
    fn drop(&mut self) {
        let _ = self.context.enter();
        *lock(&self.ring) = Ring::new(HALF);
        // SAFETY: made by `open`; no copy reads it any more.
        let _ = unsafe { result::free_host(self.buffer) };
        self.buffer = null_mut();
    }
}
