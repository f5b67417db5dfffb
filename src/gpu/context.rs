//! A card's primary context, which the driver's calls are made in.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::driver::Gpu;

/// The context, held as long as this lives. All who hold one of a card share it.
pub(super) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Takes hold of it, and makes it this thread's.
    pub fn open(gpu: &Gpu) -> Result<Context, DriverError> {
        let device = result::device::get(gpu.ordinal as i32)?;
        // SAFETY: the device came from the driver just now.
        let handle = unsafe { result::primary_ctx::retain(device) }?;
        let context = Context { device, handle };
        context.enter()?;
        Ok(context)
    }

    /// Makes it this thread's: what the driver does next, it does here.
    pub fn enter(&self) -> Result<(), DriverError> {
        // SAFETY: it is retained as long as `self` lives.
        unsafe { result::ctx::set_current(self.handle) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `open`. Where a card failed, the driver may refuse.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
