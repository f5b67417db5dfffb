//! One thread at a time uses a device.
//!
//! A pass, a recording and a replay hold the device for their whole length, and every single call
//! (an allocation, a copy, a launch) for its own. A thread that holds it may hold it again. What
//! other threads ask for meanwhile waits, first come, first served. Only a freed block does not:
//! it is left to the holder, so that dropping an array never waits, and never lands in a recording
//! that another thread makes.
//!
//! Two rules keep threads from waiting for each other forever:
//!
//! * A thread that holds one device asks for no other.
//! * A thread of rayon's pool does not wait for the pool while it holds a device: it would be given
//!   other work there, which may want another device. And where it waits for a device, it goes on
//!   with the pool's work, because the holder may be waiting for that.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem::take;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rayon::Yield;

use super::lock::lock;

/// How often a thread of rayon's pool that waits for a device looks for other work.
const POLL: Duration = Duration::from_millis(1);

/// A block of a device's memory.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub at: u64,
    pub bytes: u64,
}

/// What threads take turns at.
pub(super) trait Exclusive {
    fn turns(&self) -> &Turns;

    /// Frees a block; this thread holds the device.
    fn free(&self, block: Block);
}

/// Who holds a device, and who is next.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    holder: Option<ThreadId>,
    depth: usize,
    waiting: VecDeque<ThreadId>,
    freed: Vec<Block>, // by other threads than the holder
}

/// A thread's use of a device; it ends when this is dropped.
#[must_use = "the device is held until this is dropped"]
pub struct Hold<'a> {
    device: &'a dyn Exclusive,
    of_this_thread: PhantomData<*const ()>,
}

impl<'a> Hold<'a> {
    /// Waits for this thread's turn.
    pub(super) fn new(device: &'a dyn Exclusive) -> Hold<'a> {
        device.turns().begin();
        Hold { device, of_this_thread: PhantomData }
    }

    /// Frees what other threads have dropped since this hold began. Whether there was anything.
    pub(super) fn free_dropped(&self) -> bool {
        let freed = take(&mut lock(&self.device.turns().state).freed);
        freed.iter().for_each(|&block| self.device.free(block));
        !freed.is_empty()
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        while !self.device.turns().end() {
            self.free_dropped();
        }
    }
}

/// Gives a block that an array had to `free`, in a hold; or leaves it to the thread that holds the
/// device.
pub(super) fn free_or_leave(device: &dyn Exclusive, block: Block, free: impl FnOnce(Block)) {
    if device.turns().begin_or_leave(block) {
        let _hold = Hold { device, of_this_thread: PhantomData };
        free(block);
    }
}

impl Turns {
    fn begin(&self) {
        let this = thread::current().id();
        let mut state = lock(&self.state);
        if rayon::current_thread_index().is_some() {
            // It takes no place in the queue: while it works on something else, others would wait
            // for a thread that does not come.
            while state.holder.is_some_and(|holder| holder != this) {
                state = self.wait_as_worker(state);
            }
            return state.begin(this);
        }
        while !state.is_turn_of(this) {
            if !state.waiting.contains(&this) {
                state.waiting.push_back(this);
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.retain(|waiting| *waiting != this);
        state.begin(this);
    }

    /// Does some of the pool's work, or waits a moment where there is none.
    fn wait_as_worker<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        drop(state);
        let worked = matches!(rayon::yield_now(), Some(Yield::Executed));
        let state = lock(&self.state);
        if worked || state.holder.is_none() {
            return state;
        }
        self.ended.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether this thread holds the device from here on; if not, the holder has the block.
    fn begin_or_leave(&self, block: Block) -> bool {
        let this = thread::current().id();
        let mut state = lock(&self.state);
        if state.holder.is_some_and(|holder| holder != this) {
            state.freed.push(block);
            return false;
        }
        state.begin(this);
        true
    }

    /// Ends a hold; not the last one of a thread while there are blocks to free.
    fn end(&self) -> bool {
        let mut state = lock(&self.state);
        if state.depth == 1 && !state.freed.is_empty() {
            return false;
        }
        state.depth -= 1;
        if state.depth == 0 {
            state.holder = None;
            self.ended.notify_all();
        }
        true
    }
}

impl State {
    fn is_turn_of(&self, this: ThreadId) -> bool {
        match self.holder {
            Some(holder) => holder == this,
            None => self.waiting.front().is_none_or(|first| *first == this),
        }
    }

    fn begin(&mut self, this: ThreadId) {
        self.holder = Some(this);
        self.depth += 1;
    }
}
