//! A device that runs kernels: the driver behind it, its memory, and whose turn it is.
//!
//! Memory is blocks at addresses here; [`super::array`], [`super::weights`] and [`super::graph`]
//! make arrays, weights and recordings of them.

use std::any::Any;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::blaslt::Blaslt;
use super::cuda::{Cuda, CudaGraph};
use super::cusolver::Cusolver;
use super::driver::{Gpu, TWIN};
use super::launch::{Argument, File, Grid};
use super::library::LibraryState;
use super::lock::lock;
use super::proof::Proof;
use super::resident::{Resident, Residents};
use super::turns::{Block, Exclusive, Hold, Turns, free_or_leave};
use super::twin::{Order, Twin, TwinGraph};
use crate::base::{Error, Progress, Result, catch_device_error};

/// A device that takes launches. Clones are the same device, which one thread at a time uses:
/// other threads wait for their turn.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    vendor_libraries: bool,
}

struct Inner {
    driver: Driver,
    turns: Turns,
    memory: Mutex<MemoryUse>,
    residents: Residents,
    capture: Mutex<Option<Capture>>,
    replays: AtomicU64,
    proof: OnceLock<Proof>,
    cusolver_dropped: AtomicBool,
    notices: Mutex<Notices>,
}

/// What users should know of a device, each said once.
#[derive(Default)]
struct Notices {
    all: Vec<String>,
    said: usize, // of them
}

enum Driver {
    Cuda(Box<Cuda>),
    Twin(Twin),
}

/// What the driver made of a recording.
pub(super) enum DriverGraph {
    Cuda(CudaGraph),
    Twin(TwinGraph),
}

/// What belongs to a recording.
#[derive(Default)]
pub(super) struct Capture {
    /// Blocks of arrays that came and went while it was made.
    pub freed: Vec<Block>,
    /// Weights that it reads.
    pub weights: Vec<Arc<dyn Any + Send + Sync>>,
}

/// Bytes on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// That arrays may take.
    pub limit: u64,
    /// That arrays take.
    pub used: u64,
    /// That arrays took at most.
    pub peak: u64,
}

/// Why there is no room for an array.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    /// Arrays may take no more.
    Limit,
    /// The driver has no piece that is large enough.
    Driver,
}

/// Calls a method of whichever driver it is.
macro_rules! driver {
    ($inner:expr, $driver:ident => $call:expr) => {
        match &$inner.driver {
            Driver::Cuda($driver) => $call,
            Driver::Twin($driver) => $call,
        }
    };
}

/// Whether they are the same device.
impl PartialEq for Engine {
    fn eq(&self, other: &Engine) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Gpu {
    /// What runs kernels on it.
    ///
    /// # Errors
    ///
    /// The driver's; a build that aborts on panic.
    pub fn open(&self) -> Result<Engine> {
        if cfg!(panic = "abort") {
            return Err(Error::AbortBuild { device: format!("cuda:{}", self.ordinal) });
        }
        let Some(twin) = std::env::var_os(TWIN) else { return Ok(Engine::cuda(Cuda::open(self)?)) };
        let failed = |e| {
            let what = format!("{:?} does not start: {e}", twin.display());
            let remedy = "name an executable of the kernels for the host, or unset it";
            Error::input("environment", TWIN, what, remedy)
        };
        let twin = Twin::start(Path::new(&twin), Order::Shuffled).map_err(failed)?;
        Ok(Engine::twin(twin.in_place_of(self.title())))
    }
}

impl Engine {
    /// Kernels on a card.
    pub fn cuda(cuda: Cuda) -> Engine {
        let limit = cuda.free_bytes();
        let refusals = cuda.refusals();
        let engine = Engine::new(Driver::Cuda(Box::new(cuda)), limit);
        refusals.into_iter().for_each(|sentence| engine.note(sentence));
        engine
    }

    /// Kernels on the host.
    pub fn twin(twin: Twin) -> Engine {
        Engine::new(Driver::Twin(twin), u64::MAX)
    }

    fn new(driver: Driver, limit: u64) -> Engine {
        let inner = Inner {
            driver,
            turns: Turns::default(),
            memory: Mutex::new(MemoryUse { limit, used: 0, peak: 0 }),
            residents: Residents::default(),
            capture: Mutex::default(),
            replays: AtomicU64::new(0),
            proof: OnceLock::new(),
            cusolver_dropped: AtomicBool::new(false),
            notices: Mutex::default(),
        };
        Engine { inner: Arc::new(inner), vendor_libraries: true }
    }

    /// Remembers a sentence for [`warn`](Engine::warn).
    pub(crate) fn note(&self, sentence: String) {
        let mut notices = lock(&self.inner.notices);
        if !notices.all.contains(&sentence) {
            notices.all.push(sentence);
        }
    }

    /// Warns of what went wrong on the device and was got around, of each thing once.
    pub fn warn(&self, progress: &dyn Progress) {
        let mut notices = lock(&self.inner.notices);
        notices.all[notices.said..].iter().for_each(|sentence| progress.warn(sentence));
        notices.said = notices.all.len();
    }

    /// The same device without NVIDIA's libraries: only our kernels.
    pub fn own(&self) -> Engine {
        Engine { inner: self.inner.clone(), vendor_libraries: false }
    }

    /// Holds the device for this thread, after those that came before: other threads wait until
    /// the hold is dropped. A thread may hold a device more than once, and no other meanwhile; nor
    /// may it wait for another thread that uses the device.
    pub fn hold(&self) -> Hold<'_> {
        Hold::new(&*self.inner)
    }

    /// Runs a computation, all of it on this thread, and holds the device meanwhile; an error that
    /// unwinds from inside becomes its result.
    ///
    /// # Errors
    ///
    /// The computation's own; the device's.
    pub fn run<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        catch_device_error(|| {
            let _hold = self.hold();
            run()
        })
    }

    /// cuBLASLt, if found.
    pub fn blaslt(&self) -> Option<&Blaslt> {
        match &self.inner.driver {
            Driver::Cuda(cuda) if self.vendor_libraries => cuda.blaslt(),
            _ => None,
        }
    }

    /// cuSOLVER, if found.
    pub fn cusolver(&self) -> Option<&Cusolver> {
        let _hold = self.hold();
        let dropped = self.inner.cusolver_dropped.load(Ordering::Relaxed);
        match &self.inner.driver {
            Driver::Cuda(cuda) if self.vendor_libraries && !dropped => {
                let found = cuda.cusolver();
                cuda.refusals().into_iter().for_each(|sentence| self.note(sentence));
                found
            }
            _ => None,
        }
    }

    /// Leaves factors and solves to our kernels from now on.
    pub fn drop_cusolver(&self) {
        self.inner.cusolver_dropped.store(true, Ordering::Relaxed);
    }

    /// Whether it is a card, and not the host in its place.
    pub fn is_card(&self) -> bool {
        matches!(self.inner.driver, Driver::Cuda(_))
    }

    /// What it has proved of its kernels, once it has; `None` of a device that nobody asked.
    pub fn proof(&self) -> Option<&Proof> {
        self.inner.proof.get()
    }

    /// Says that it has proved its kernels.
    pub fn has_proved(&self, proof: Proof) {
        let _ = self.inner.proof.set(proof);
    }

    /// NVIDIA's libraries on a card, started where they are not yet; or why it does without.
    pub fn libraries(&self) -> Vec<LibraryState> {
        let _hold = self.hold();
        match &self.inner.driver {
            Driver::Cuda(cuda) => cuda.libraries(),
            Driver::Twin(_) => Vec::new(),
        }
    }

    /// Whether each launch is waited for, so that a fault is told with its kernel.
    pub(super) fn waits(&self) -> bool {
        matches!(&self.inner.driver, Driver::Cuda(cuda) if cuda.waits())
    }

    /// How many pieces of memory the driver gave so far, that arrays are cut from.
    pub(super) fn pieces(&self) -> u64 {
        match &self.inner.driver {
            Driver::Cuda(cuda) => cuda.pieces(),
            Driver::Twin(_) => 0,
        }
    }

    /// What arrays take.
    pub fn memory(&self) -> MemoryUse {
        *self.inner.ledger()
    }

    /// Measures the peak from now on. Returns what arrays take.
    pub fn forget_peak(&self) -> u64 {
        let mut memory = self.inner.ledger();
        memory.peak = memory.used;
        memory.used
    }

    /// Lets arrays take no more than `bytes` from now on.
    pub fn cap(&self, bytes: u64) {
        self.inner.ledger().limit = bytes;
    }

    /// How many recordings were replayed so far.
    pub fn replays(&self) -> u64 {
        self.inner.replays.load(Ordering::Relaxed)
    }

    /// How long the device takes for what `run` enqueues on this thread, in seconds.
    pub fn seconds(&self, run: impl FnOnce()) -> f64 {
        let _hold = self.hold();
        driver!(self.inner, d => d.seconds(run))
    }

    /// Loads a kernel for some types, as its first launch would.
    pub fn load(&self, file: &File, kernel: &'static str, types: (&'static str, &'static str)) {
        let _hold = self.hold();
        driver!(self.inner, d => d.load(file, kernel, types));
    }

    /// Enqueues a kernel of a file.
    ///
    /// # Panics
    ///
    /// Where an argument's elements are of another type than the kernel takes.
    pub fn launch(&self, file: &File, kernel: &'static str, grid: Grid, arguments: &[Argument]) {
        if !grid.is_empty() {
            grid.check(kernel);
            let _hold = self.hold();
            driver!(self.inner, d => d.launch(file, kernel, grid, arguments));
        }
    }
}

/// Blocks of memory, and copies.
impl Engine {
    /// A block; where there is no room, the weights least recently used make some.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub(super) fn allocate(&self, bytes: u64) -> Result<u64> {
        let hold = self.hold();
        loop {
            let full = match self.take(bytes) {
                Ok(at) => return Ok(at),
                Err(full) => full,
            };
            // A weight that is evicted while a recording is made stays the recording's: that makes
            // no room. Nor may the driver be waited for.
            if self.inner.capturing().is_some() {
                return Err(self.no_room(bytes));
            }
            // Pieces that no array is in are too small, or the driver would not have been asked.
            let unused = || full == Full::Driver && driver!(self.inner, d => d.give_up());
            if !(hold.free_dropped() || unused() || self.inner.residents.evict(self.id())) {
                return Err(self.no_room(bytes));
            }
        }
    }

    fn take(&self, bytes: u64) -> std::result::Result<u64, Full> {
        let inner = &*self.inner;
        if let Some(at) = inner.capturing().as_mut().and_then(|capture| capture.reuse(bytes)) {
            return Ok(at);
        }
        let mut memory = inner.ledger();
        if memory.used + bytes > memory.limit {
            return Err(Full::Limit);
        }
        let at = match bytes {
            0 => 0,
            _ => driver!(inner, d => d.allocate(bytes as usize)).ok_or(Full::Driver)?,
        };
        memory.used += bytes;
        memory.peak = memory.peak.max(memory.used);
        Ok(at)
    }

    pub(super) fn no_room(&self, wanted: u64) -> Error {
        let MemoryUse { limit, used, .. } = self.memory();
        Error::DeviceMemory { wanted, used, limit }
    }

    /// Frees a block; while a recording is made, it stays the recording's. Another thread's hold
    /// is not waited for: its thread frees the block then.
    pub(super) fn free(&self, block: Block) {
        free_or_leave(&*self.inner, block, |block| match &mut *self.inner.capturing() {
            Some(capture) => capture.freed.push(block),
            None => self.inner.free(block),
        });
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        let _hold = self.hold();
        assert!(self.inner.capturing().is_none(), "an upload cannot be recorded");
        driver!(self.inner, d => d.write(at, bytes));
    }

    /// Writes `bytes` bytes, which `fill` gives piece by piece: it gets a piece's offset and the
    /// piece.
    pub(super) fn fill(&self, at: u64, bytes: usize, fill: &mut dyn FnMut(usize, &mut [u8])) {
        let _hold = self.hold();
        driver!(self.inner, d => d.fill(at, bytes, fill));
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) {
        let _hold = self.hold();
        assert!(self.inner.capturing().is_none(), "a download cannot be recorded");
        driver!(self.inner, d => d.read(at, bytes));
    }

    pub(super) fn copy(&self, to: u64, from: u64, bytes: usize) {
        let _hold = self.hold();
        driver!(self.inner, d => d.copy(to, from, bytes));
    }

    pub(super) fn zero(&self, at: u64, bytes: usize) {
        let _hold = self.hold();
        driver!(self.inner, d => d.zero(at, bytes));
    }
}

/// Weights and recordings.
impl Engine {
    /// Tells this device from others while it is open.
    pub(super) fn id(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }

    /// Makes a weight the most recently used.
    pub(super) fn used<R: Resident + 'static>(&self, weight: &Arc<R>) {
        self.inner.residents.used(weight.clone());
    }

    /// What belongs to the recording that is made, if one is; in a hold, it is this thread's.
    pub(super) fn capturing(&self) -> MutexGuard<'_, Option<Capture>> {
        self.inner.capturing()
    }

    /// Whether what is enqueued is recorded, and not run.
    pub fn is_recording(&self) -> bool {
        self.inner.capturing().is_some()
    }

    /// From here on what is enqueued is recorded, in a hold.
    pub(super) fn begin_capture(&self) {
        driver!(self.inner, d => d.begin());
        *self.inner.capturing() = Some(Capture::default());
    }

    /// Ends a recording; `Err` says why the driver could not follow.
    pub(super) fn end_capture(&self) -> (std::result::Result<DriverGraph, String>, Capture) {
        let graph = match &self.inner.driver {
            Driver::Cuda(d) => d.end().map(DriverGraph::Cuda),
            Driver::Twin(d) => Ok(DriverGraph::Twin(d.end())),
        };
        (graph, self.inner.capturing().take().expect("a recording"))
    }

    pub(super) fn replay(&self, graph: &DriverGraph) {
        let _hold = self.hold();
        self.inner.replays.fetch_add(1, Ordering::Relaxed);
        match (&self.inner.driver, graph) {
            (Driver::Cuda(d), DriverGraph::Cuda(graph)) => d.replay(graph),
            (Driver::Twin(d), DriverGraph::Twin(graph)) => d.replay(graph),
            _ => unreachable!("a recording is of its engine's driver"),
        }
    }
}

impl Capture {
    /// A freed block of just so many bytes.
    fn reuse(&mut self, bytes: u64) -> Option<u64> {
        let found = self.freed.iter().position(|free| free.bytes == bytes)?;
        Some(self.freed.swap_remove(found).at)
    }
}

impl Inner {
    fn ledger(&self) -> MutexGuard<'_, MemoryUse> {
        lock(&self.memory)
    }

    fn capturing(&self) -> MutexGuard<'_, Option<Capture>> {
        lock(&self.capture)
    }
}

impl Exclusive for Inner {
    fn turns(&self) -> &Turns {
        &self.turns
    }

    fn free(&self, block: Block) {
        driver!(self, d => d.free(block.at));
        self.ledger().used -= block.bytes;
    }
}
