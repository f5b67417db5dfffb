//! A card, through the driver: memory, copies and launches on one stream, large uploads on another.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::{result, sys};

use super::blaslt::Blaslt;
use super::context::Context;
use super::cusolver::Cusolver;
use super::driver::{self, FORCE_PTX, Gpu, POOL, SYNC, again_or_cpu, look_or_cpu};
use super::launch::{Argument, File, Grid, launched, types};
use super::library::{LibraryState, Unused};
use super::lock::lock;
use super::pool::Pool;
use super::staging::Staging;
use super::upload::{self, Uploads};
use super::{image, library};
use crate::base::{Error, Remedy, Result, or_unwind};

/// A card's primary context and a stream of its own.
pub struct Cuda {
    title: String,
    context: Arc<Context>,
    stream: sys::CUstream,
    small: Staging,
    uploads: Uploads,
    arch: &'static str,
    modules: Mutex<Modules>,
    pool: Option<Mutex<Pool>>, // none where each array has memory of its own
    serves: i32,               // CUDA 1000·major + 10·minor
    room: u64,                 // bytes that pieces may have
    pieces: AtomicU64,         // that the driver gave so far
    waits: bool,               // for the card after each launch
    records: AtomicBool,
    forced: bool, // to compile from PTX
    blaslt: Start<Blaslt>,
    cusolver: OnceLock<Start<Cusolver>>,
}

type Start<T> = std::result::Result<T, Unused>;

/// Bytes that are copied at once; more go by [`Uploads`].
const SMALL: usize = 64 << 10;

/// A graph that can be launched.
pub(super) struct CudaGraph(sys::CUgraphExec, Arc<Context>);

// SAFETY: as of `Cuda`'s handles.
unsafe impl Send for CudaGraph {}
// SAFETY: as above.
unsafe impl Sync for CudaGraph {}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        let _ = self.1.enter();
        // SAFETY: made by `end`, and nobody else has it; the driver waits for launches under way.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}

/// What was loaded, by file and types, and of it by name.
type Modules = HashMap<[&'static str; 3], (sys::CUmodule, Functions)>;
type Functions = HashMap<&'static str, sys::CUfunction>;

// SAFETY: the driver's handles may be used from any thread; each use sets the context first.
unsafe impl Send for Cuda {}
// SAFETY: as above; the driver synchronises calls on one stream.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens a card that the driver shows.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn open(gpu: &Gpu) -> Result<Cuda> {
        let failed = |e: result::DriverError| {
            let what = format!("{}: {e:?}", gpu.title());
            Error::device(what, look_or_cpu("see what the machine offers, or compute on the CPU"))
        };
        if gpu.capability < (8, 0) {
            let (major, minor) = gpu.capability;
            let what = format!("{} is of sm_{major}{minor}", gpu.title());
            let remedy = "use a card of sm_80 or later, or compute on the CPU";
            return Err(Error::device(what, Remedy::from(remedy).option("device", Some("cpu"))));
        }
        let serves = driver::version().map_err(failed)?;
        if let Some(why) = driver::unfit(serves) {
            let what = format!("{}: {why}", gpu.title());
            let remedy = "update it to one that serves CUDA 12.0 (525), or later, or compute on \
                          the CPU";
            return Err(Error::device(what, Remedy::from(remedy).option("device", Some("cpu"))));
        }
        let context = Arc::new(Context::open(gpu).map_err(failed)?);
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let stream = stream.map_err(failed)?;
        let is = |name, value| std::env::var_os(name).is_some_and(|v| v == value);
        let forced = is(FORCE_PTX, "1");
        let found = find(&library::BLASLT, serves, forced);
        let blaslt = library::start(found, |found| Blaslt::open(found, stream));
        let (free, _) = result::mem_get_info().map_err(failed)?;
        Ok(Cuda {
            title: gpu.title(),
            small: Staging::open(&context).map_err(failed)?,
            uploads: Uploads::open(&context).map_err(failed)?,
            context,
            stream,
            arch: if forced { "compute_80" } else { image::arch(gpu.capability) },
            modules: Mutex::default(),
            pool: (!is(POOL, "off")).then(Mutex::default),
            serves,
            room: (free as u64).saturating_sub(upload::BYTES),
            pieces: AtomicU64::new(0),
            waits: is(SYNC, "1"),
            records: AtomicBool::new(false),
            forced,
            blaslt,
            cusolver: OnceLock::new(),
        })
    }

    /// cuBLASLt, if found.
    pub(super) fn blaslt(&self) -> Option<&Blaslt> {
        self.enter();
        self.blaslt.as_ref().ok()
    }

    /// cuSOLVER, if found; it is large, and searched for on first use.
    pub(super) fn cusolver(&self) -> Option<&Cusolver> {
        self.enter();
        self.started_cusolver().as_ref().ok()
    }

    fn started_cusolver(&self) -> &Start<Cusolver> {
        self.cusolver.get_or_init(|| {
            let found = find(&library::CUSOLVER, self.serves, self.forced);
            library::start(found, |found| Cusolver::open(found, self.stream))
        })
    }

    /// Libraries that are there and did not start, a sentence each.
    pub(super) fn refusals(&self) -> Vec<String> {
        let refused = |state: LibraryState| state.title.err().filter(|unused| unused.refused);
        let sentence =
            |unused: Unused| format!("our kernels compute in a library's place: {}", unused.why);
        self.started().into_iter().filter_map(refused).map(sentence).collect()
    }

    /// NVIDIA's libraries, all of them started, or why they are not.
    pub(super) fn libraries(&self) -> Vec<LibraryState> {
        self.enter();
        self.started_cusolver();
        self.started()
    }

    fn started(&self) -> Vec<LibraryState> {
        let blaslt = self.blaslt.as_ref().map(Blaslt::title);
        let cusolver = self.cusolver.get().map(|start| start.as_ref().map(Cusolver::title));
        let state = |(wanted, title): (library::VendorLibrary, Start<&str>)| LibraryState {
            name: wanted.name,
            title: title.map(str::to_owned),
        };
        let cusolver = cusolver.map(|title| (library::CUSOLVER, title.map_err(Clone::clone)));
        let all = [(library::BLASLT, blaslt.map_err(Clone::clone))].into_iter().chain(cusolver);
        all.map(state).collect()
    }

    /// Bytes that nobody has taken yet.
    pub(super) fn free_bytes(&self) -> u64 {
        self.enter();
        // Some is left to the driver: modules, the stack of kernels, other libraries.
        let free = result::mem_get_info().map_or(0, |(free, _)| free as u64 / 20 * 19);
        free.saturating_sub(upload::BYTES).min(self.room)
    }

    pub(super) fn allocate(&self, bytes: usize) -> Option<u64> {
        let bytes = bytes as u64;
        let Some(pool) = &self.pool else { return self.piece(bytes) };
        let mut pool = lock(pool);
        let left = self.room.saturating_sub(pool.bytes());
        pool.allocate(bytes, &mut |piece| {
            let at = if piece <= left { self.piece(piece)? } else { return None };
            self.pieces.fetch_add(1, Ordering::Relaxed);
            Some(at)
        })
    }

    /// Whether each launch is waited for.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// How many pieces of memory the driver gave so far.
    pub(super) fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    /// Gives the driver back what no array is in. Whether there was anything.
    pub(super) fn give_up(&self) -> bool {
        let Some(pool) = &self.pool else { return false };
        let unused = lock(pool).give_up();
        unused.iter().for_each(|&piece| self.free_piece(piece));
        !unused.is_empty()
    }

    fn piece(&self, bytes: u64) -> Option<u64> {
        self.enter();
        // SAFETY: the context is current, and the piece is not empty.
        unsafe { result::malloc_sync(bytes as usize) }.ok()
    }

    pub(super) fn free(&self, at: u64) {
        if let Some(pool) = &self.pool {
            return lock(pool).give(at);
        }
        self.free_piece(at);
    }

    fn free_piece(&self, at: u64) {
        let _ = self.context.enter(); // also while a panic unwinds because the card failed
        // SAFETY: nothing at `at` is used again; what was enqueued is waited for.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _ = result::free_sync(at);
        }
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        if bytes.len() > SMALL {
            return self.fill(at, bytes.len(), &mut |from, piece| {
                piece.copy_from_slice(&bytes[from..from + piece.len()]);
            });
        }
        self.enter();
        self.answer(self.small.send(self.stream, at, bytes), || {
            format!("copy of {} bytes to the card", bytes.len())
        });
    }

    pub(super) fn fill(&self, at: u64, bytes: usize, fill: &mut dyn FnMut(usize, &mut [u8])) {
        self.enter();
        let sent = self.uploads.fill(self.stream, at, bytes, fill);
        self.answer(sent, || format!("copy of {bytes} bytes to the card"));
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) {
        self.enter();
        let len = bytes.len();
        // SAFETY: the array that begins at `at` has as many bytes, and the copy is waited for.
        let done = unsafe {
            result::memcpy_dtoh_async(bytes, at, self.stream)
                .and_then(|()| result::stream::synchronize(self.stream))
        };
        self.answer(done, || format!("copy of {len} bytes from the card"));
    }

    pub(super) fn seconds(&self, run: impl FnOnce()) -> f64 {
        self.enter();
        let mark = || {
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
            // SAFETY: event and stream are of this context.
            unsafe { result::event::record(event, self.stream) }.map(|()| event)
        };
        let took = mark().and_then(|before| {
            run();
            self.enter();
            let after = mark()?;
            // SAFETY: both events were recorded; they are not used again.
            unsafe {
                result::event::synchronize(after)?;
                let took = result::event::elapsed(before, after)?;
                result::event::destroy(before)?;
                result::event::destroy(after)?;
                Ok(f64::from(took) / 1e3)
            }
        });
        self.answer(took, || "a time".to_owned())
    }

    pub(super) fn copy(&self, to: u64, from: u64, bytes: usize) {
        self.enter();
        // SAFETY: both are parts of arrays, of as many bytes.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) };
        self.answer(done, || format!("copy of {bytes} bytes on the card"));
    }

    pub(super) fn zero(&self, at: u64, bytes: usize) {
        self.enter();
        // SAFETY: a part of an array.
        let done = unsafe { result::memset_d8_async(at, 0, bytes, self.stream) };
        self.answer(done, || format!("zeros to {bytes} bytes on the card"));
    }

    /// Begins a capture of the stream. Memory and modules may be allocated meanwhile.
    pub(super) fn begin(&self) {
        self.enter();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is ours.
        let began = unsafe { result::stream::begin_capture(self.stream, mode) };
        self.answer(began, || "a recording".to_owned());
        self.records.store(true, Ordering::Relaxed);
    }

    /// Ends the capture; `Err` says why the driver could not record it.
    pub(super) fn end(&self) -> std::result::Result<CudaGraph, String> {
        self.enter();
        self.records.store(false, Ordering::Relaxed);
        let why = |e: result::DriverError| format!("{e:?}");
        // SAFETY: the stream is ours and records; the graph is destroyed once.
        unsafe {
            let graph = result::stream::end_capture(self.stream).map_err(why)?;
            if graph.is_null() {
                return Err("the driver gave no graph".to_owned());
            }
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable.map(|graph| CudaGraph(graph, self.context.clone())).map_err(why)
        }
    }

    pub(super) fn replay(&self, graph: &CudaGraph) {
        self.enter();
        // SAFETY: the graph lives, and so does what it was recorded of.
        let launched = unsafe { result::graph::launch(graph.0, self.stream) };
        self.answer(launched.and_then(|()| self.wait()), || "a replay".to_owned());
    }

    pub(super) fn launch(
        &self,
        file: &File,
        kernel: &'static str,
        grid: Grid,
        arguments: &[Argument],
    ) {
        self.enter();
        let types = types(file, kernel, arguments);
        let function = self.function(file, kernel, types);
        let slots: Vec<u64> = arguments.iter().map(|a| a.slot()).collect();
        // A parameter's bytes are the first of its slot: numbers are little-endian on both sides.
        let mut places: Vec<*mut c_void> =
            slots.iter().map(|slot| std::ptr::from_ref(slot).cast_mut().cast()).collect();
        let [blocks, threads] = [grid.blocks, grid.threads].map(|[x, y, z]| (x, y, z));
        // SAFETY: the generated launchers pass what the kernel's signature says, in its order.
        let done = unsafe {
            result::launch_kernel(function, blocks, threads, 0, self.stream, &mut places)
        };
        self.answer(done.and_then(|()| self.wait()), || launched(file.name, kernel, types, grid));
    }

    /// For what was enqueued, where that is wanted; a recording enqueues nothing.
    fn wait(&self) -> std::result::Result<(), result::DriverError> {
        if !self.waits || self.records.load(Ordering::Relaxed) {
            return Ok(());
        }
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream) }
    }

    pub(super) fn load(
        &self,
        file: &File,
        kernel: &'static str,
        types: (&'static str, &'static str),
    ) {
        self.enter();
        self.function(file, kernel, types);
    }

    /// The kernel for some types, loaded on first use.
    fn function(
        &self,
        file: &File,
        kernel: &'static str,
        (elem, weight): (&'static str, &'static str),
    ) -> sys::CUfunction {
        let refused = |e: result::DriverError| {
            let what = format!("kernels/{}.cu for {}: {e:?}", file.name, self.arch);
            Error::device(what, "update the driver to one that serves CUDA 12.8, or later")
        };
        let mut modules = lock(&self.modules);
        let (module, functions) = modules.entry([file.name, elem, weight]).or_insert_with(|| {
            let image = or_unwind(image::image(file, (elem, weight), self.arch));
            // SAFETY: an image that NVRTC made; PTX ends in a NUL.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
            (or_unwind(module.map_err(refused)), Functions::new())
        });
        *functions.entry(kernel).or_insert_with(|| {
            let name = CString::new(kernel).expect("names hold no NUL");
            // SAFETY: the module stays loaded as long as `self` lives.
            let function = unsafe { result::module::get_function(*module, name) };
            or_unwind(function.map_err(refused))
        })
    }

    /// What the driver did; its refusal unwinds to the API boundary.
    fn answer<T>(
        &self,
        done: std::result::Result<T, result::DriverError>,
        what: impl FnOnce() -> String,
    ) -> T {
        or_unwind(done.map_err(|e| {
            let what = format!("{}: the card failed, {}: {e:?}", self.title, what());
            Error::device(what, again_or_cpu())
        }))
    }

    fn enter(&self) {
        self.answer(self.context.enter(), || "its context".to_owned());
    }
}

impl Drop for Cuda {
    /// Frees everything. Errors of a failed card do not matter: its memory is gone.
    fn drop(&mut self) {
        let _ = self.context.enter();
        let modules = self.modules.get_mut().unwrap_or_else(PoisonError::into_inner);
        let pool = self.pool.as_ref().map(lock);
        // SAFETY: all was made by `self` and is used by nobody else: arrays hold an engine, so none
        // is left, and what was enqueued is waited for.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            self.blaslt = Err(Unused { why: String::new(), refused: false });
            self.cusolver = OnceLock::new();
            for (_, (module, _)) in modules.drain() {
                let _ = result::module::unload(module);
            }
            for piece in pool.iter().flat_map(|pool| pool.pieces()) {
                let _ = result::free_sync(piece);
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}

/// Of the libraries' code for each card nothing is left where the driver compiles from PTX.
fn find(
    wanted: &library::VendorLibrary,
    serves: i32,
    forced: bool,
) -> std::result::Result<library::Found, String> {
    if forced {
        return Err(format!("not used with {FORCE_PTX}=1, which takes its machine code away"));
    }
    library::find(wanted, serves)
}
