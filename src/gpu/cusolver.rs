//! Factors and solves by cuSOLVER, if found: A = L Lᵀ and A⁻¹B, in f64.
//!
//! The library is column-major: a lower triangle in rows is to it the upper triangle of the same
//! matrix, U = Lᵀ. Its results are reproducible: sums whose order varies come only on request
//! (cusolverDnSetDeterministicMode).

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard};

use cudarc::driver::sys;

use super::launch::DeviceSlice;
use super::library::{Found, functions};
use super::lock::lock;
use super::turns::Hold;
use crate::base::{Result, or_unwind};

/// CUBLAS_FILL_MODE_UPPER.
const UPPER: c_int = 1;

functions! {
    Functions {
        cusolverDnCreate(*mut *mut c_void);
        cusolverDnDestroy(*mut c_void);
        cusolverDnSetStream(*mut c_void, sys::CUstream);
        cusolverDnDpotrf_bufferSize(*mut c_void, c_int, c_int, *mut f64, c_int, *mut c_int);
        cusolverDnDpotrf(
            *mut c_void, c_int, c_int, *mut f64, c_int, *mut f64, c_int, *mut c_int,
        );
        cusolverDnDpotrs(
            *mut c_void, c_int, c_int, c_int, *const f64, c_int, *mut f64, c_int, *mut c_int,
        );
    }
}

/// The library on a card's stream.
pub struct Cusolver {
    call: Functions,
    handle: Mutex<Handle>,
}

struct Handle(*mut c_void);

// SAFETY: the handle may be used from any thread, and is by one at a time.
unsafe impl Send for Handle {}

impl Drop for Cusolver {
    fn drop(&mut self) {
        // SAFETY: made by `open` in the context that is current, and not used again.
        let _ = unsafe { (self.call.cusolverDnDestroy)(self.handle().0) };
    }
}

/// The lower triangle of a matrix on the device: N, and elements from a row to the next.
#[derive(Clone, Copy)]
pub struct Lower {
    /// The elements, f64.
    pub slice: DeviceSlice,
    /// N.
    pub n: usize,
    /// Elements from a row to the next.
    pub ld: usize,
}

/// Whether the library, which counts a matrix's elements in 32 bits, takes A (N, N), rows `ld`
/// apart, and B of some systems: N up to 46,340 where rows lie side by side.
pub fn fits(n: usize, ld: usize, [systems, across]: [usize; 2]) -> bool {
    let counts = |lines: usize, apart: usize| {
        let last = lines.saturating_sub(1).checked_mul(apart).and_then(|at| at.checked_add(n));
        last.is_some_and(|len| i32::try_from(len).is_ok())
    };
    counts(n, ld) && counts(systems, across)
}

impl Cusolver {
    /// Starts the library for the card whose context is current.
    ///
    /// # Errors
    ///
    /// The library's.
    pub(super) fn open(found: Found, stream: sys::CUstream) -> Result<Cusolver> {
        let call = Functions::of(found)?;
        let mut handle = null_mut();
        // SAFETY: a context is current, and there is a place for the handle.
        call.found.check(unsafe { (call.cusolverDnCreate)(&mut handle) })?;
        // SAFETY: the handle was made just now; the stream is the context's.
        call.found.check(unsafe { (call.cusolverDnSetStream)(handle, stream) })?;
        Ok(Cusolver { call, handle: Mutex::new(Handle(handle)) })
    }

    /// "cuSOLVER 11.7.2".
    pub fn title(&self) -> &str {
        &self.call.found.title
    }

    /// Doubles of memory that [`factor`](Cusolver::factor) works in.
    pub fn work(&self, a: Lower) -> usize {
        let (n, ld, at) = a.described();
        let mut len = 0;
        // SAFETY: a matrix as described, and a number to write to.
        self.check(unsafe {
            (self.call.cusolverDnDpotrf_bufferSize)(self.handle().0, UPPER, n, at, ld, &mut len)
        });
        len as usize
    }

    /// Turns A into L. `info` (1) i32 becomes 0, or a bad pivot's index, counted from one. The
    /// thread holds the device.
    pub fn factor(&self, _: &Hold, a: Lower, work: DeviceSlice, info: DeviceSlice) {
        let ((n, ld, at), len) = (a.described(), work.len as c_int);
        let work = work.at as *mut f64;
        let info = info.at as *mut c_int;
        // SAFETY: a matrix as described, memory of as many doubles as the library needs.
        self.check(unsafe {
            (self.call.cusolverDnDpotrf)(self.handle().0, UPPER, n, at, ld, work, len, info)
        });
    }

    /// Turns B into A⁻¹B, with L as [`factor`](Cusolver::factor) left it: `systems` of them, the
    /// unknowns of each side by side, `across` elements from one to the next.
    pub fn solve(
        &self,
        _: &Hold,
        l: Lower,
        x: DeviceSlice,
        [systems, across]: [usize; 2],
        info: DeviceSlice,
    ) {
        let (n, ld, at) = l.described();
        assert!(systems == 0 || x.len >= (systems - 1) * across + l.n, "cuSOLVER: X is too small");
        let systems = systems as c_int;
        let across = across as c_int;
        let x = x.at as *mut f64;
        let info = info.at as *mut c_int;
        // SAFETY: matrices as described.
        self.check(unsafe {
            (self.call.cusolverDnDpotrs)(
                self.handle().0,
                UPPER,
                n,
                systems,
                at,
                ld,
                x,
                across,
                info,
            )
        });
    }

    fn handle(&self) -> MutexGuard<'_, Handle> {
        lock(&self.handle)
    }

    fn check(&self, status: c_int) {
        or_unwind(self.call.found.check(status));
    }
}

impl Lower {
    fn described(self) -> (c_int, c_int, *mut f64) {
        let Lower { slice, n, ld } = self;
        assert!(slice.len >= n.saturating_sub(1) * ld + n, "cuSOLVER: A is too small");
        (n as c_int, ld as c_int, slice.at as *mut f64)
    }
}
