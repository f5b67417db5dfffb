//! A card, through the driver: memory, copies, launches on one stream.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Mutex;

use cudarc::driver::{result, sys};

use super::driver::Gpu;
use super::launch::{Argument, File, Grid, Image, types};
use crate::base::{Error, Result};

/// A card's primary context and a stream of its own.
pub struct Cuda {
    context: sys::CUcontext,
    stream: sys::CUstream,
    capability: (i32, i32),
    functions: Mutex<HashMap<Symbol, sys::CUfunction>>,
}

/// File, types, kernel.
type Symbol = (&'static str, &'static str, &'static str, String);

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
        let device = result::device::get(gpu.ordinal as i32).map_err(failed)?;
        // SAFETY: the device came from the driver just now.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        // SAFETY: the context was retained just now.
        unsafe { result::ctx::set_current(context) }.map_err(failed)?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let stream = stream.map_err(failed)?;
        let functions = Mutex::new(HashMap::new());
        Ok(Cuda { context, stream, capability: gpu.capability, functions })
    }

    pub(super) fn allocate(&self, bytes: usize) -> Option<u64> {
        self.enter();
        // SAFETY: the context is current; an empty allocation is not asked for.
        unsafe { result::malloc_sync(bytes.max(1)) }.ok()
    }

    pub(super) fn free(&self, at: u64) {
        self.enter();
        // SAFETY: `at` came from `allocate` and its owner is gone. The stream may still use it.
        let _ = unsafe {
            result::stream::synchronize(self.stream).and_then(|()| result::free_sync(at))
        };
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        self.enter();
        // SAFETY: the array that begins at `at` has as many bytes; the copy ends before the call.
        let done = unsafe {
            result::stream::synchronize(self.stream)
                .and_then(|()| result::memcpy_htod_sync(at, bytes))
        };
        done.unwrap_or_else(|e| panic!("copy of {} bytes to the card: {e:?}", bytes.len()));
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) {
        self.enter();
        let len = bytes.len();
        // SAFETY: the array that begins at `at` has as many bytes; all launches before are done.
        let done = unsafe {
            result::stream::synchronize(self.stream)
                .and_then(|()| result::memcpy_dtoh_sync(bytes, at))
        };
        done.unwrap_or_else(|e| panic!("copy of {len} bytes from the card: {e:?}"));
    }

    pub(super) fn launch(&self, file: &File, kernel: &str, grid: Grid, arguments: &[Argument]) {
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

    /// The kernel for some types, loaded when it is first asked for.
    fn function(
        &self,
        file: &File,
        kernel: &str,
        (elem, weight): (&'static str, &'static str),
    ) -> sys::CUfunction {
        let mut functions =
            self.functions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let symbol = (file.name, elem, weight, kernel.to_owned());
        *functions.entry(symbol).or_insert_with(|| {
            let image = self.image(file, elem, weight).unwrap_or_else(|| {
                panic!("{kernel}: the program was built without an image for {elem} {weight}")
            });
            // SAFETY: an image that NVRTC made; PTX ends in a NUL.
            let module = unsafe { result::module::load_data(image.bytes.as_ptr().cast()) };
            let module = module.unwrap_or_else(|e| panic!("{} {}: {e:?}", file.name, image.arch));
            let name = CString::new(kernel).expect("names hold no NUL");
            // SAFETY: the module was loaded just now.
            let function = unsafe { result::module::get_function(module, name) };
            function.unwrap_or_else(|e| panic!("{kernel}: {e:?}"))
        })
    }

    /// Machine code for this card where there is some, else PTX.
    fn image(&self, file: &File, elem: &str, weight: &str) -> Option<&'static Image> {
        let ours = match self.capability {
            (8, _) => "sm_80",
            (9, 0) => "sm_90a",
            (10, 0) => "sm_100",
            _ => "compute_80",
        };
        let forced = std::env::var_os("CUDA_FORCE_PTX_JIT").is_some_and(|v| v == "1");
        let arch = if forced { "compute_80" } else { ours };
        let images = file.images.iter().filter(|i| (i.elem, i.weight) == (elem, weight));
        images.into_iter().find(|image| image.arch == arch)
    }

    fn enter(&self) {
        // SAFETY: the context is retained as long as `self` lives.
        let set = unsafe { result::ctx::set_current(self.context) };
        set.expect("a context that was current before");
    }
}
