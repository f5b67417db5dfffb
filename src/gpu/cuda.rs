//! A card, through the driver: memory, copies, launches on one stream.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::{result, sys};

use super::blaslt::Blaslt;
use super::driver::{self, Gpu};
use super::launch::{Argument, File, Grid, types};
use super::pool::Pool;
use super::solver::Solver;
use super::{image, library};
use crate::base::{Error, Result, fits};

/// A card's primary context and a stream of its own.
pub struct Cuda {
    context: sys::CUcontext,
    stream: sys::CUstream,
    arch: &'static str,
    functions: Mutex<HashMap<Symbol, sys::CUfunction>>,
    pool: Mutex<Pool>,
    pinned: Mutex<Pinned>,
    serves: i32, // CUDA 1000·major + 10·minor
    blaslt: Option<Blaslt>,
    solver: OnceLock<Option<Solver>>,
}

/// Memory is asked for in pieces of so many bytes, or more.
const PIECE: u64 = 1 << 30;
/// Bytes of a pinned buffer.
const PINNED: usize = 32 << 20;

/// Bytes that the driver copies at once, without waiting for the card.
const SMALL: usize = 64 << 10;

/// Host memory that the card copies from by itself, two buffers in turn.
struct Pinned {
    buffers: [Buffer; 2],
    next: usize,
}

#[derive(Clone, Copy)]
struct Buffer {
    at: *mut c_void,
    sent: sys::CUevent,
}

/// File, types, kernel.
type Symbol = [&'static str; 4];

// SAFETY: the driver's handles may be used from any thread; each use sets the context first.
unsafe impl Send for Cuda {}
// SAFETY: as above; the driver synchronises calls on one stream.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens a card that the driver shows.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn open(gpu: &Gpu) -> Result<Cuda> {
        let failed = |e: result::DriverError| {
            let what = format!("cuda:{} ({}): {e:?}", gpu.ordinal, gpu.name);
            Error::refused(what, "see `incise doctor`, or use --device cpu")
        };
        if gpu.capability < (8, 0) {
            let (major, minor) = gpu.capability;
            let what = format!("cuda:{} ({}) is of sm_{major}{minor}", gpu.ordinal, gpu.name);
            return Err(Error::refused(what, "use a card of sm_80 or later, or --device cpu"));
        }
        let device = result::device::get(gpu.ordinal as i32).map_err(failed)?;
        // SAFETY: the device came from the driver just now.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        // SAFETY: the context was retained just now.
        unsafe { result::ctx::set_current(context) }.map_err(failed)?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let stream = stream.map_err(failed)?;
        let buffer = || -> std::result::Result<Buffer, result::DriverError> {
            // SAFETY: the context is current.
            let at = unsafe { result::malloc_host(PINNED, 0) }?;
            let sent = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            Ok(Buffer { at, sent })
        };
        let buffers = [buffer().map_err(failed)?, buffer().map_err(failed)?];
        let serves = driver::version().map_err(failed)?;
        let found = library::find(&library::BLASLT, serves).ok();
        let blaslt = found.map(|found| Blaslt::open(found, stream)).transpose()?;
        let forced = std::env::var_os("CUDA_FORCE_PTX_JIT").is_some_and(|v| v == "1");
        Ok(Cuda {
            context,
            stream,
            arch: if forced { "compute_80" } else { image::arch(gpu.capability) },
            functions: Mutex::default(),
            pool: Mutex::default(),
            pinned: Mutex::new(Pinned { buffers, next: 0 }),
            serves,
            blaslt,
            solver: OnceLock::new(),
        })
    }

    /// cuBLASLt, where it was found.
    pub(super) fn blaslt(&self) -> Option<&Blaslt> {
        self.enter();
        self.blaslt.as_ref()
    }

    /// cuSOLVER, where it is found; it is large, and looked for when it is first asked for.
    pub(super) fn solver(&self) -> Option<&Solver> {
        self.enter();
        let open = || {
            let found = library::find(&library::SOLVER, self.serves).ok();
            fits(found.map(|found| Solver::open(found, self.stream)).transpose())
        };
        self.solver.get_or_init(open).as_ref()
    }

    /// Bytes that nobody has taken yet.
    pub(super) fn free_bytes(&self) -> u64 {
        self.enter();
        // Some is left to the driver: modules, the stack of kernels, other libraries.
        result::mem_get_info().map_or(0, |(free, _)| free as u64 / 20 * 19)
    }

    pub(super) fn allocate(&self, bytes: usize) -> Option<u64> {
        let mut pool = lock(&self.pool);
        let bytes = bytes as u64;
        if let Some(at) = pool.take(bytes) {
            return Some(at);
        }
        self.enter();
        let least = Pool::piece(bytes);
        for piece in [PIECE.max(least), least] {
            // SAFETY: the context is current, and the piece is not empty.
            if let Ok(at) = unsafe { result::malloc_sync(piece as usize) } {
                pool.add(at, piece);
                return pool.take(bytes);
            }
        }
        None
    }

    pub(super) fn free(&self, at: u64) {
        lock(&self.pool).give(at);
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        if bytes.len() > SMALL {
            return self.fill(at, bytes.len(), &mut |from, piece| {
                piece.copy_from_slice(&bytes[from..from + piece.len()]);
            });
        }
        self.enter();
        // SAFETY: the array that begins at `at` has as many bytes; the driver takes so few over
        // before the call returns.
        let done = unsafe { result::memcpy_htod_async(at, bytes, self.stream) };
        done.unwrap_or_else(|e| panic!("copy of {} bytes to the card: {e:?}", bytes.len()));
    }

    /// Through two pinned buffers: one is filled while the other is on its way.
    pub(super) fn fill(&self, at: u64, bytes: usize, fill: &mut dyn FnMut(usize, &mut [u8])) {
        self.enter();
        let mut pinned = lock(&self.pinned);
        for from in (0..bytes).step_by(PINNED) {
            let len = PINNED.min(bytes - from);
            let buffer = pinned.buffers[pinned.next];
            pinned.next = (pinned.next + 1) % 2;
            let sent = (|| {
                // SAFETY: the event is recorded behind the buffer's last copy, so it is free now.
                unsafe { result::event::synchronize(buffer.sent) }?;
                // SAFETY: PINNED bytes of the driver's, and nobody else has them.
                let piece = unsafe { std::slice::from_raw_parts_mut(buffer.at.cast::<u8>(), len) };
                fill(from, piece);
                // SAFETY: the array that begins at `at` has as many bytes; the buffer is not
                // written again before its event.
                unsafe {
                    result::memcpy_htod_async(at + from as u64, piece, self.stream)?;
                    result::event::record(buffer.sent, self.stream)
                }
            })();
            sent.unwrap_or_else(|e: result::DriverError| {
                panic!("copy of {len} bytes to the card: {e:?}");
            });
        }
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) {
        self.enter();
        let len = bytes.len();
        // SAFETY: the array that begins at `at` has as many bytes, and the copy is waited for.
        let done = unsafe {
            result::memcpy_dtoh_async(bytes, at, self.stream)
                .and_then(|()| result::stream::synchronize(self.stream))
        };
        done.unwrap_or_else(|e| panic!("copy of {len} bytes from the card: {e:?}"));
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
        took.unwrap_or_else(|e: result::DriverError| panic!("timing on the card: {e:?}"))
    }

    pub(super) fn copy(&self, to: u64, from: u64, bytes: usize) {
        self.enter();
        // SAFETY: both are parts of arrays, of as many bytes.
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) };
        done.unwrap_or_else(|e| panic!("copy of {bytes} bytes on the card: {e:?}"));
    }

    pub(super) fn zero(&self, at: u64, bytes: usize) {
        self.enter();
        // SAFETY: a part of an array.
        let done = unsafe { result::memset_d8_async(at, 0, bytes, self.stream) };
        done.unwrap_or_else(|e| panic!("zeros to {bytes} bytes on the card: {e:?}"));
    }

    pub(super) fn launch(
        &self,
        file: &File,
        kernel: &'static str,
        grid: Grid,
        arguments: &[Argument],
    ) {
        self.enter();
        let function = self.function(file, kernel, types(file, kernel, arguments));
        let slots: Vec<u64> = arguments.iter().map(|a| a.slot()).collect();
        // A parameter's bytes are the first of its slot: numbers are little-endian on both sides.
        let mut places: Vec<*mut c_void> =
            slots.iter().map(|slot| std::ptr::from_ref(slot).cast_mut().cast()).collect();
        let [blocks, threads] = [grid.blocks, grid.threads].map(|[x, y, z]| (x, y, z));
        // SAFETY: the generated launchers pass what the kernel's signature says, in its order.
        let done = unsafe {
            result::launch_kernel(function, blocks, threads, 0, self.stream, &mut places)
        };
        done.unwrap_or_else(|e| panic!("{kernel}, {grid:?}: {e:?}"));
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

    /// The kernel for some types, loaded when it is first asked for.
    fn function(
        &self,
        file: &File,
        kernel: &'static str,
        (elem, weight): (&'static str, &'static str),
    ) -> sys::CUfunction {
        let mut functions = lock(&self.functions);
        let symbol = [file.name, elem, weight, kernel];
        *functions.entry(symbol).or_insert_with(|| {
            let image = fits(image::image(file, (elem, weight), self.arch));
            // SAFETY: an image that NVRTC made; PTX ends in a NUL.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
            let refused = |e: result::DriverError| {
                let what = format!("kernels/{}.cu for {}: {e:?}", file.name, self.arch);
                Error::refused(what, "update the driver to one that serves CUDA 12.8, or later")
            };
            let module = fits(module.map_err(refused));
            let name = CString::new(kernel).expect("names hold no NUL");
            // SAFETY: the module was loaded just now.
            let function = unsafe { result::module::get_function(module, name) };
            fits(function.map_err(refused))
        })
    }

    fn enter(&self) {
        // SAFETY: the context is retained as long as `self` lives.
        let set = unsafe { result::ctx::set_current(self.context) };
        set.expect("a context that was current before");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
