//! What runs kernels and holds their arrays.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blaslt::Blaslt;
use super::cuda::Cuda;
use super::graph::{Graph, Holdings, Tape};
use super::launch::{Argument, Elem, File, Grid, In, InOut, Out, Place};
use super::resident::{Residents, Slot};
use super::solver::Solver;
use super::twin::Twin;
use crate::base::{Error, Result};

/// A device that takes launches, and whether NVIDIA's libraries are used. Clones are the same
/// device; one thread at a time uses it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>, bool);

struct Inner {
    driver: Driver,
    memory: Mutex<Memory>,
    residents: Residents,
    recording: Mutex<Option<Holdings>>,
    replays: AtomicU64,
}

enum Driver {
    Cuda(Box<Cuda>),
    Twin(Twin),
}

/// Bytes on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// That arrays may take.
    pub limit: u64,
    /// That arrays take.
    pub used: u64,
    /// That arrays took at most.
    pub peak: u64,
}

/// Calls a method of whichever driver it is.
macro_rules! driver {
    ($engine:expr, $driver:ident => $call:expr) => {
        match &$engine.0.driver {
            Driver::Cuda($driver) => $call,
            Driver::Twin($driver) => $call,
        }
    };
}

/// Elements on a device, freed with the last who holds them.
pub struct Array {
    engine: Engine,
    place: Place,
    capacity: usize, // elements there is room for
}

/// Whether they are the same device.
impl PartialEq for Engine {
    fn eq(&self, other: &Engine) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Engine {
    /// Kernels on a card.
    pub fn cuda(cuda: Cuda) -> Engine {
        let limit = cuda.free_bytes();
        Engine::of(Driver::Cuda(Box::new(cuda)), limit)
    }

    /// Kernels on the host.
    pub fn twin(twin: Twin) -> Engine {
        Engine::of(Driver::Twin(twin), u64::MAX)
    }

    fn of(driver: Driver, limit: u64) -> Engine {
        let memory = Mutex::new(Memory { limit, used: 0, peak: 0 });
        let (residents, recording, replays) = Default::default();
        Engine(Arc::new(Inner { driver, memory, residents, recording, replays }), true)
    }

    /// The same device, with kernels of ours alone.
    pub fn own(&self) -> Engine {
        Engine(self.0.clone(), false)
    }

    /// What multiplies on this device besides our kernels, where it was found.
    pub fn blaslt(&self) -> Option<&Blaslt> {
        match &self.0.driver {
            Driver::Cuda(cuda) if self.1 => cuda.blaslt(),
            _ => None,
        }
    }

    /// What factors on this device besides our kernels, where it is found. One that refuses to
    /// start unwinds.
    pub fn solver(&self) -> Option<&Solver> {
        match &self.0.driver {
            Driver::Cuda(cuda) if self.1 => cuda.solver(),
            _ => None,
        }
    }

    /// What arrays take.
    pub fn memory(&self) -> Memory {
        *self.ledger()
    }

    /// Measures the peak from now on. Returns what arrays take.
    pub fn forget_peak(&self) -> u64 {
        let mut memory = self.ledger();
        memory.peak = memory.used;
        memory.used
    }

    /// Lets arrays take no more than `bytes` from now on.
    pub fn cap(&self, bytes: u64) {
        self.ledger().limit = bytes;
    }

    fn ledger(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recording(&self) -> MutexGuard<'_, Option<Holdings>> {
        self.0.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what `run` enqueues, instead of running it; nothing where a weight is not on the
    /// device, or there is no room. `run` must neither upload nor download anything, nor may
    /// another thread use the device meanwhile.
    pub fn record(&self, run: impl FnOnce()) -> Option<Graph> {
        driver!(self, d => d.begin());
        *self.recording() = Some(Holdings::default());
        let ran = catch_unwind(AssertUnwindSafe(run));
        let tape = match &self.0.driver {
            Driver::Cuda(d) => d.end().map(Tape::Cuda),
            Driver::Twin(d) => d.end().map(Tape::Twin),
        };
        let holdings = self.recording().take().expect("recording");
        match (ran, tape) {
            (Ok(()), Some(tape)) => Some(Graph { tape, holdings, engine: self.clone() }),
            (ran, _) => {
                self.give_back(holdings);
                if let Err(panic) = ran
                    && !panic.is::<Error>()
                {
                    resume_unwind(panic);
                }
                None
            }
        }
    }

    /// How many recordings were replayed so far.
    pub fn replays(&self) -> u64 {
        self.0.replays.load(Ordering::Relaxed)
    }

    pub(super) fn replay(&self, tape: &Tape) {
        self.0.replays.fetch_add(1, Ordering::Relaxed);
        match (&self.0.driver, tape) {
            (Driver::Cuda(d), Tape::Cuda(tape)) => d.replay(tape),
            (Driver::Twin(d), Tape::Twin(tape)) => d.replay(tape),
            _ => unreachable!("a recording is of its engine's driver"),
        }
    }

    /// Frees what a recording held.
    pub(super) fn give_back(&self, holdings: Holdings) {
        for (at, bytes) in holdings.freed {
            driver!(self, d => d.free(at));
            self.ledger().used -= bytes;
        }
    }

    /// Room for `len` elements. Where there is none, weights that were used longest ago make room.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn array(&self, elem: Elem, len: usize) -> Result<Array> {
        let bytes = (len * elem.size()) as u64;
        loop {
            if let Some(at) = self.take(bytes) {
                let place = Place { at, len, elem };
                return Ok(Array { engine: self.clone(), place, capacity: len });
            }
            // What is put out while a recording is made stays the recording's: no room is made.
            if self.recording().is_some() || !self.0.residents.evict(self) {
                let Memory { limit, used, .. } = self.memory();
                return Err(Error::DeviceMemory { wanted: bytes, used, limit });
            }
        }
    }

    fn take(&self, bytes: u64) -> Option<u64> {
        if let Some(at) = self.recording().as_mut().and_then(|held| held.reuse(bytes)) {
            return Some(at);
        }
        let mut memory = self.ledger();
        if memory.used + bytes > memory.limit {
            return None;
        }
        let at = match bytes {
            0 => 0,
            _ => driver!(self, d => d.allocate(bytes as usize))?,
        };
        memory.used += bytes;
        memory.peak = memory.peak.max(memory.used);
        Some(at)
    }

    /// An array of the bytes of some elements.
    ///
    /// # Errors
    ///
    /// As [`array`](Engine::array).
    pub fn upload(&self, elem: Elem, bytes: &[u8]) -> Result<Array> {
        assert!(self.recording().is_none(), "an upload cannot be recorded");
        let array = self.array(elem, bytes.len() / elem.size())?;
        if !bytes.is_empty() {
            driver!(self, d => d.write(array.place.at, bytes));
        }
        Ok(array)
    }

    /// The elements of a slot on this device, which `fill` writes there piece by piece if they are
    /// not: it gets the offset of a piece in bytes, and the piece.
    ///
    /// # Errors
    ///
    /// As [`array`](Engine::array).
    pub fn resident(
        &self,
        slot: &Arc<Slot>,
        elem: Elem,
        len: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<Arc<Array>> {
        self.0.residents.used(slot);
        let mut recording = self.recording();
        match (slot.get(self), &mut *recording) {
            (Some(array), None) => return Ok(array),
            (Some(array), Some(held)) => {
                held.weights.push(array.clone());
                return Ok(array);
            }
            (None, Some(_)) => {
                let Memory { limit, used, .. } = self.memory();
                return Err(Error::DeviceMemory {
                    wanted: (len * elem.size()) as u64,
                    used,
                    limit,
                });
            }
            (None, None) => drop(recording),
        }
        let array = Arc::new(self.array(elem, len)?);
        driver!(self, d => d.fill(array.place.at, len * elem.size(), fill));
        slot.put(&array);
        Ok(array)
    }

    /// How long the device takes for what `run` enqueues, in seconds.
    pub fn seconds(&self, run: impl FnOnce()) -> f64 {
        driver!(self, d => d.seconds(run))
    }

    /// Loads a kernel for some types, as its first launch would.
    pub fn load(&self, file: &File, kernel: &'static str, types: (&'static str, &'static str)) {
        driver!(self, d => d.load(file, kernel, types));
    }

    /// Enqueues a kernel of a file.
    ///
    /// # Panics
    ///
    /// Where an argument's elements are of another type than the kernel takes.
    pub fn launch(&self, file: &File, kernel: &'static str, grid: Grid, arguments: &[Argument]) {
        if !grid.is_empty() {
            grid.check(kernel);
            driver!(self, d => d.launch(file, kernel, grid, arguments));
        }
    }
}

impl Array {
    /// How many elements.
    pub fn len(&self) -> usize {
        self.place.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.place.len == 0
    }

    /// Of which type they are.
    pub fn elem(&self) -> Elem {
        self.place.elem
    }

    /// The device it is on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Where it lies.
    pub fn place(&self) -> Place {
        self.place
    }

    /// To be read by a kernel.
    pub fn read(&self) -> In<'_> {
        self.place.into()
    }

    /// To be written by a kernel, all of it.
    pub fn write(&mut self) -> Out<'_> {
        self.place.into()
    }

    /// To be read and written by a kernel.
    pub fn update(&mut self) -> InOut<'_> {
        self.place.into()
    }

    /// Makes it `len` long; what it held stays, new elements are zero.
    ///
    /// # Errors
    ///
    /// As [`Engine::array`].
    pub fn resize(&mut self, len: usize) -> Result<()> {
        let old = self.place.len;
        if len > self.capacity {
            // What grows token by token is not copied for each; and little is held for nothing.
            let room = if old == 0 { len } else { len.max(old + old / 8) };
            let mut larger = self.engine.array(self.place.elem, room)?;
            larger.copy(0, self, 0..old);
            larger.place.len = old;
            *self = larger;
        }
        self.place.len = len;
        if len > old {
            let fresh = self.place.part(old, len - old);
            driver!(self.engine, d => d.zero(fresh.at, fresh.len * fresh.elem.size()));
        }
        Ok(())
    }

    /// Elements from `to` on become a copy of some of another array of the same device and type.
    pub fn copy(&mut self, to: usize, from: &Array, elements: Range<usize>) {
        assert_eq!(self.place.elem, from.place.elem, "copy: arrays of two types");
        if !elements.is_empty() {
            let to = self.place.part(to, elements.len());
            let from = from.place.part(elements.start, elements.len());
            driver!(self.engine, d => d.copy(to.at, from.at, to.len * to.elem.size()));
        }
    }

    /// The bytes, once all launches before are done.
    pub fn download(&self) -> Vec<u8> {
        self.download_part(0..self.place.len)
    }

    /// The bytes of some elements, once all launches before are done.
    pub fn download_part(&self, elements: Range<usize>) -> Vec<u8> {
        assert!(self.engine.recording().is_none(), "a download cannot be recorded");
        let part = self.place.part(elements.start, elements.len());
        let mut bytes = vec![0; part.len * part.elem.size()];
        if !bytes.is_empty() {
            driver!(self.engine, d => d.read(part.at, &mut bytes));
        }
        bytes
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.place.fmt(f)
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        let bytes = (self.capacity * self.place.elem.size()) as u64;
        if bytes > 0 {
            if let Some(held) = &mut *self.engine.recording() {
                return held.freed.push((self.place.at, bytes));
            }
            driver!(self.engine, d => d.free(self.place.at));
            self.engine.ledger().used -= bytes;
        }
    }
}
