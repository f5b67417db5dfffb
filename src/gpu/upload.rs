//! Large uploads, on a stream of their own, so that the card computes meanwhile.
//!
//! A pair is a pinned buffer on the host and a block of as many bytes on the card:
//!
//! ```text
//! host       fills buffer 0 │ fills 1 │ fills 2 │ …          fills 0, once it was copied
//! copies                    │ buffer 0 ─► block 0 │ 1 ─► 1 │ …  0 ─► 0, once it was moved
//! computes   kernels of a layer …                 ┤ block 0 ─► its place │ 1 ─► … │ kernels
//! ```
//!
//! Copies run ahead of kernels by as many bytes as there are pairs. A block is moved to its place
//! in the order of the computing stream, so the place may be memory that a kernel enqueued before
//! still reads: that of a weight which was evicted.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUstream};

use super::context::Context;
use super::lock::lock;
use crate::base::{Error, Remedy, or_unwind};

type Answer<T> = Result<T, DriverError>;

/// Bytes of a buffer: the bus takes a millisecond for them, and microseconds to begin.
const PIECE: usize = 32 << 20;
/// As many as hold a layer of GPT-J in bf16 (384 MiB), so the next one comes while one computes;
/// fewer where there is no room for them.
const PAIRS: usize = 12;
/// Bytes that uploads take of a card, once there is a large one.
pub(super) const BYTES: u64 = (PAIRS * PIECE) as u64;

/// The stream of copies, and what they pass through.
pub(super) struct Uploads {
    context: Arc<Context>,
    copies: CUstream,
    ready: Mutex<VecDeque<Pair>>, // that nobody fills, the one used longest ago first
}

/// A pinned buffer, a block on the card, and how far their last use is.
struct Pair {
    context: Arc<Context>,
    buffer: *mut c_void,
    block: u64,
    copied: sys::CUevent, // buffer to block
    moved: sys::CUevent,  // block to its place
}

impl Uploads {
    /// With a stream of their own; pairs are made at the first upload.
    pub fn open(context: &Arc<Context>) -> Answer<Uploads> {
        let copies = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        Ok(Uploads { context: context.clone(), copies, ready: Mutex::default() })
    }

    /// Writes `bytes` bytes to `at` for what `computes` enqueues later; `fill` gives them piece by
    /// piece. The host waits for nothing but a free buffer.
    ///
    /// # Errors
    ///
    /// The driver's. A card or a host without memory for the pairs unwinds.
    pub fn fill(
        &self,
        computes: CUstream,
        at: u64,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Answer<()> {
        for from in (0..bytes).step_by(PIECE) {
            let len = PIECE.min(bytes - from);
            let mut pair = self.pair();
            // The pair is this thread's alone meanwhile.
            fill(from, pair.empty(len)?);
            self.context.enter()?;
            pair.send(len, self.copies, computes, at + from as u64)?;
            lock(&self.ready).push_back(pair);
        }
        Ok(())
    }

    fn pair(&self) -> Pair {
        let mut ready = lock(&self.ready);
        if ready.is_empty() {
            // The first upload; later, only where as many threads as there are pairs fill one each.
            let refused = |e: DriverError| {
                let what =
                    format!("no {PIECE} bytes of the card and of the host for uploads: {e:?}");
                let remedy = "leave the card to fewer programs, or compute on the CPU";
                Error::device(what, Remedy::from(remedy).option("device", Some("cpu")))
            };
            let pairs = as_many(PAIRS, || Pair::new(&self.context));
            ready.extend(or_unwind(pairs.map_err(refused)));
        }
        ready.pop_front().expect("made where there was none")
    }
}

/// Up to n of what `make` makes, as many as there is room for: without one it is an error.
fn as_many<T, E>(n: usize, mut make: impl FnMut() -> Result<T, E>) -> Result<Vec<T>, E> {
    let mut made = vec![make()?];
    made.extend(std::iter::repeat_with(make).take(n - 1).map_while(Result::ok));
    Ok(made)
}

impl Drop for Uploads {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: nobody enqueues on it any more; what is enqueued is finished all the same.
        let _ = unsafe { result::stream::destroy(self.copies) };
    }
}

impl Pair {
    fn new(context: &Arc<Context>) -> Answer<Pair> {
        let mut pair = Pair {
            context: context.clone(),
            buffer: null_mut(),
            block: 0,
            copied: null_mut(),
            moved: null_mut(),
        };
        // SAFETY: the context is current.
        pair.buffer = unsafe { result::malloc_host(PIECE, 0) }?;
        // SAFETY: as above.
        pair.block = unsafe { result::malloc_sync(PIECE) }?;
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        (pair.copied, pair.moved) = (event()?, event()?);
        Ok(pair)
    }

    /// The buffer's first bytes, once its last copy is made.
    fn empty(&mut self, len: usize) -> Answer<&mut [u8]> {
        // SAFETY: the event is of this context; the copy recorded before it has read the buffer.
        unsafe { result::event::synchronize(self.copied) }?;
        // SAFETY: PIECE bytes of the driver's, at least as many, and nobody else has the pair.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.buffer.cast(), len) })
    }

    /// Enqueues the way of the buffer's first bytes: by `copies` to the block once that was moved,
    /// and by `computes` to `at` once they are there.
    fn send(&self, len: usize, copies: CUstream, computes: CUstream, at: u64) -> Answer<()> {
        // SAFETY: PIECE bytes, at least as many; the buffer is not written before `copied`.
        let piece: &[u8] = unsafe { std::slice::from_raw_parts(self.buffer.cast(), len) };
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: streams and events are of this context, and the array at `at` has `len` bytes.
        // An event that was never recorded is not waited for.
        unsafe {
            result::stream::wait_event(copies, self.moved, flags)?;
            result::memcpy_htod_async(self.block, piece, copies)?;
            result::event::record(self.copied, copies)?;
            result::stream::wait_event(computes, self.copied, flags)?;
            result::memcpy_dtod_async(at, self.block, len, computes)?;
            result::event::record(self.moved, computes)
        }
    }
}

impl Drop for Pair {
    /// What was not made is null, and the driver refuses it.
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: all was made by `new`; its last use is waited for.
        unsafe {
            let _ = result::event::synchronize(self.copied);
            let _ = result::event::synchronize(self.moved);
            let _ = result::event::destroy(self.copied);
            let _ = result::event::destroy(self.moved);
            let _ = result::free_sync(self.block);
            let _ = result::free_host(self.buffer);
        }
    }
}
