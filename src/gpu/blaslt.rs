//! Products by cuBLASLt, if found: c (N, M) f32 or bf16 = a (N, K) bf16 · W bf16 + b,
//! with f32 sums.
//!
//! The library is column-major, so a row-major matrix is to it the transposed one, and what it
//! computes is cᵀ = op(W) aᵀ, of M × N, where op transposes a W whose lines are along K.
//!
//! A row's bits depend neither on N nor on the other rows: an algorithm is chosen once for a
//! [`Shape`], from the library's heuristic for `HEURISTIC_ROWS` rows, among those in which one
//! block computes a whole sum (no split of K, no reduction) and which the library's own check
//! accepts for few rows and many; it then serves every N. A shape without such an algorithm has no
//! plan for any N and goes to our own kernels. That a block's sums do not depend on the position of
//! its rows, the tests on a card check.
//!
//! Nothing is allocated in a product, so it may be recorded; one product of each shape has to come
//! before, for its plan and for the library to load its kernels.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::{from_ref, null_mut};
use std::sync::{Mutex, MutexGuard};

use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue,
    cublasLtMatmulDescAttributes_t as Of, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayoutAttribute_t as Layout, cublasLtReductionScheme_t as Reduction,
    cudaDataType as Kind,
};
use cudarc::driver::{result, sys};

use super::launch::{DeviceSlice, Elem};
use super::library::{Found, functions};
use super::lock::lock;
use super::turns::Hold;
use crate::base::{Result, or_unwind};

/// Bytes of the library's own memory: what its authors advise for Hopper.
const WORKSPACE: usize = 32 << 20;
/// bf16 numbers of [`BlasltSession::room`]: the parts of 2048 rows of 16384 numbers.
const ROOM: usize = 64 << 20;
/// Rows for which the heuristic is asked.
const HEURISTIC_ROWS: usize = 4096;
/// Rows that the library multiplies at once, at most: more are multiplied in parts, by the same
/// algorithm, so to the same bits.
const ROWS: usize = 8192;
/// Numbers of a product at most: libraries count them in 32 bits here and there.
const NUMBERS: usize = i32::MAX as usize;
/// Rows for which the library must accept an algorithm, besides the most that it gets.
const CHECKED_ROWS: [usize; 7] = [1, 2, 9, 49, 127, 1000, 4097];
/// CUBLAS_OP_N: the matrix itself; CUBLAS_OP_T: the transposed one.
const OPS: [i32; 2] = [0, 1];
/// How many algorithms the heuristic gives at most.
const CANDIDATES: usize = 16;
/// Alignment in bytes of every matrix and of its columns.
pub const ALIGN: usize = 16;

/// What an algorithm is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Summands.
    pub k: usize,
    /// Columns of c.
    pub m: usize,
    /// Elements from a line of W to the next.
    pub stride: usize,
    /// Whether a line is along K; else along M.
    pub along_k: bool,
    /// Whether there is a b (M), of c's type.
    pub biased: bool,
    /// Whether c is bf16; else it is f32.
    pub narrow: bool,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Shape { k, m, stride, along_k, biased, narrow } = *self;
        let line = if along_k { "K" } else { "M" };
        let bias = if biased { " + b" } else { "" };
        let to = if narrow { "bf16" } else { "f32" };
        write!(f, "K {k}, M {m}{bias}, lines along {line}, {stride} apart, to {to}")
    }
}

impl Shape {
    /// The most rows that the library gets at once.
    pub fn rows(&self) -> usize {
        (NUMBERS / self.m.max(self.k)).clamp(1, ROWS)
    }
}

/// The library on a card's stream.
pub struct Blaslt {
    call: Functions,
    handle: *mut c_void,
    preference: *mut c_void,
    stream: sys::CUstream,
    workspace: u64,
    room: DeviceSlice,
    plans: Mutex<Plans>,
}

type Plans = HashMap<Shape, Option<Plan>>;

/// Descriptions of a product and its matrices, N among them, and the algorithm.
struct Plan {
    product: *mut c_void,
    w: *mut c_void,
    a: *mut c_void,
    c: *mut c_void,
    algorithm: Algorithm,
}

/// cublasLtMatmulAlgo_t.
type Algorithm = [u64; 8];

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Advice {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

impl Advice {
    fn holds(&self) -> bool {
        self.state == 0 && self.workspace <= WORKSPACE
    }
}

functions! {
    Functions {
        cublasLtCreate(*mut *mut c_void);
        cublasLtDestroy(*mut c_void);
        cublasLtMatmulDescCreate(*mut *mut c_void, Compute, Kind);
        cublasLtMatmulDescDestroy(*mut c_void);
        cublasLtMatmulDescSetAttribute(*mut c_void, Of, *const c_void, usize);
        cublasLtMatrixLayoutCreate(*mut *mut c_void, Kind, u64, u64, i64);
        cublasLtMatrixLayoutDestroy(*mut c_void);
        cublasLtMatrixLayoutSetAttribute(*mut c_void, Layout, *const c_void, usize);
        cublasLtMatmulPreferenceCreate(*mut *mut c_void);
        cublasLtMatmulPreferenceDestroy(*mut c_void);
        cublasLtMatmulPreferenceSetAttribute(*mut c_void, Preference, *const c_void, usize);
        cublasLtMatmulAlgoGetHeuristic(
            *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void,
            *mut c_void, c_int, *mut Advice, *mut c_int,
        );
        cublasLtMatmulAlgoCheck(
            *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void,
            *const Algorithm, *mut Advice,
        );
        cublasLtMatmul(
            *mut c_void, *mut c_void, *const f32, *const c_void, *mut c_void, *const c_void,
            *mut c_void, *const f32, *const c_void, *mut c_void, *mut c_void, *mut c_void,
            *const Algorithm, *mut c_void, usize, sys::CUstream,
        );
    }
}

// SAFETY: the handle may be used from any thread, descriptions are behind the mutex.
unsafe impl Send for Blaslt {}
// SAFETY: as above.
unsafe impl Sync for Blaslt {}

/// An attribute's value, and its size.
fn bytes<T>(value: &T) -> (*const c_void, usize) {
    (from_ref(value).cast(), size_of::<T>())
}

impl Blaslt {
    /// Starts the library for the card whose context is current.
    ///
    /// # Errors
    ///
    /// What the library says, or the driver where there is no memory.
    pub fn open(found: Found, stream: sys::CUstream) -> Result<Blaslt> {
        let call = Functions::of(found)?;
        let mut handle = null_mut();
        let mut preference = null_mut();
        // SAFETY: a context is current, and there is a place for the handle.
        call.found.check(unsafe { (call.cublasLtCreate)(&mut handle) })?;
        // SAFETY: a place for what is made.
        call.found.check(unsafe { (call.cublasLtMatmulPreferenceCreate)(&mut preference) })?;
        let memory = |bytes| {
            // SAFETY: a context is current, and the piece is not empty.
            let memory = unsafe { result::malloc_sync(bytes) };
            memory.map_err(|e| call.found.refused(format!("{bytes} bytes: {e:?}")))
        };
        let room = DeviceSlice { at: memory(2 * ROOM)?, len: ROOM, elem: Elem::BF16 };
        let workspace = memory(WORKSPACE)?;
        let lt =
            Blaslt { call, handle, preference, stream, workspace, room, plans: Mutex::default() };
        lt.set_preference(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        let whole = Reduction::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
        lt.set_preference(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole)?;
        for matrix in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            lt.set_preference(matrix, &(ALIGN as u32))?;
        }
        Ok(lt)
    }

    /// "cuBLASLt 12.8.4".
    pub fn title(&self) -> &str {
        &self.call.found.title
    }

    /// Products of the thread that holds the device.
    pub fn session(&self, _: &Hold) -> BlasltSession<'_> {
        BlasltSession { library: self, plans: lock(&self.plans) }
    }

    /// The shapes so far, and whether the library multiplies them.
    pub fn shapes(&self) -> Vec<(Shape, bool)> {
        lock(&self.plans).iter().map(|(&shape, plan)| (shape, plan.is_some())).collect()
    }

    /// From here on our kernels multiply a shape: the library's products of it are wrong.
    pub fn leave_out(&self, _: &Hold, shape: Shape) {
        if let Some(plan) = lock(&self.plans).insert(shape, None).flatten() {
            self.forget(&plan);
        }
    }

    fn set_preference<T>(&self, which: Preference, value: &T) -> Result<()> {
        let (value, size) = bytes(value);
        // SAFETY: the preference is alive, and the value has the size that goes with it.
        self.call.found.check(unsafe {
            (self.call.cublasLtMatmulPreferenceSetAttribute)(self.preference, which, value, size)
        })
    }

    fn set<T>(&self, product: *mut c_void, which: Of, value: &T) -> Result<()> {
        let (value, size) = bytes(value);
        // SAFETY: a live description, and a value of the size that the attribute has.
        self.call.found.check(unsafe {
            (self.call.cublasLtMatmulDescSetAttribute)(product, which, value, size)
        })
    }

    fn layout(&self, kind: Kind, [rows, cols]: [usize; 2], ld: usize) -> Result<*mut c_void> {
        let mut layout = null_mut();
        let rows = rows as u64;
        let cols = cols as u64;
        let ld = ld as i64;
        // SAFETY: a place for what is made.
        let made =
            unsafe { (self.call.cublasLtMatrixLayoutCreate)(&mut layout, kind, rows, cols, ld) };
        self.call.found.check(made).map(|()| layout)
    }

    /// Lets a plan be for n rows.
    fn set_rows(&self, plan: &Plan, n: usize) -> Result<()> {
        let n = n as u64;
        let (value, size) = bytes(&n);
        [plan.a, plan.c].into_iter().try_for_each(|layout| {
            // SAFETY: a live description, and a u64, which the attribute is.
            self.call.found.check(unsafe {
                (self.call.cublasLtMatrixLayoutSetAttribute)(
                    layout,
                    Layout::CUBLASLT_MATRIX_LAYOUT_COLS,
                    value,
                    size,
                )
            })
        })
    }

    /// A plan whose algorithm serves any N; `None` where the library has none.
    fn plan(&self, shape: Shape) -> Result<Option<Plan>> {
        let Shape { k, m, stride, along_k, biased, narrow } = shape;
        let mut product = null_mut();
        let f32s = Kind::CUDA_R_32F;
        let f32_sums = Compute::CUBLAS_COMPUTE_32F;
        // SAFETY: a place for what is made.
        let made = unsafe { (self.call.cublasLtMatmulDescCreate)(&mut product, f32_sums, f32s) };
        self.call.found.check(made)?;
        let (w_sizes, op) = if along_k { ([k, m], OPS[1]) } else { ([m, k], OPS[0]) };
        self.set(product, Of::CUBLASLT_MATMUL_DESC_TRANSA, &op)?;
        if biased {
            let with = Epilogue::CUBLASLT_EPILOGUE_BIAS as u32;
            self.set(product, Of::CUBLASLT_MATMUL_DESC_EPILOGUE, &with)?;
            // Each product sets its own later; this one has their alignment.
            self.set(product, Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &self.room.at)?;
        }
        let n = HEURISTIC_ROWS.min(shape.rows());
        let w = self.layout(Kind::CUDA_R_16BF, w_sizes, stride)?;
        let a = self.layout(Kind::CUDA_R_16BF, [k, n], k)?;
        let c = self.layout(if narrow { Kind::CUDA_R_16BF } else { f32s }, [m, n], m)?;
        let plan = Plan { product, w, a, c, algorithm: [0; 8] };
        let most = shape.rows();
        let serves = |advice: &&Advice| {
            let plan = Plan { algorithm: advice.algorithm, ..plan };
            let mut rows = CHECKED_ROWS.into_iter().filter(|&n| n < most).chain([most]);
            advice.holds() && rows.all(|n| self.allowed(&plan, n))
        };
        let found = self.advice(&plan).iter().find(serves).map(|advice| advice.algorithm);
        if found.is_none() {
            self.forget(&plan);
        }
        Ok(found.map(|algorithm| Plan { algorithm, ..plan }))
    }

    /// Destroys a plan's descriptions. Errors of a failed card do not matter: its memory is gone.
    fn forget(&self, plan: &Plan) {
        // SAFETY: made by `plan`, and not used again.
        unsafe {
            let _ = (self.call.cublasLtMatmulDescDestroy)(plan.product);
            for layout in [plan.w, plan.a, plan.c] {
                let _ = (self.call.cublasLtMatrixLayoutDestroy)(layout);
            }
        }
    }

    /// Algorithms, the fastest first; none where the library multiplies no such matrices.
    fn advice(&self, plan: &Plan) -> Vec<Advice> {
        let Plan { product, w, a, c, .. } = *plan;
        let mut all = [Advice::default(); CANDIDATES];
        let mut count = 0;
        // SAFETY: live descriptions, and room for as many candidates.
        let asked = unsafe {
            (self.call.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                product,
                w,
                a,
                c,
                c,
                self.preference,
                CANDIDATES as c_int,
                all.as_mut_ptr(),
                &mut count,
            )
        };
        if asked != 0 {
            return Vec::new();
        }
        all[..CANDIDATES.min(count as usize)].to_vec()
    }

    /// Whether the library lets a plan's algorithm multiply n rows.
    fn allowed(&self, plan: &Plan, n: usize) -> bool {
        let Plan { product, w, a, c, algorithm } = *plan;
        let mut advice = Advice::default();
        or_unwind(self.set_rows(plan, n));
        // SAFETY: live descriptions, an algorithm that the library gave, room for the answer.
        let checked = unsafe {
            (self.call.cublasLtMatmulAlgoCheck)(
                self.handle,
                product,
                w,
                a,
                c,
                c,
                &algorithm,
                &mut advice,
            )
        };
        checked == 0 && advice.holds()
    }
}

impl Drop for Blaslt {
    /// Errors of a failed card do not matter: its memory is gone.
    fn drop(&mut self) {
        lock(&self.plans).values().flatten().for_each(|plan| self.forget(plan));
        // SAFETY: made by `open` in the context that is current, and not used again.
        unsafe {
            let _ = (self.call.cublasLtMatmulPreferenceDestroy)(self.preference);
            let _ = (self.call.cublasLtDestroy)(self.handle);
            let _ = result::free_sync(self.workspace);
            let _ = result::free_sync(self.room.at);
        }
    }
}

/// Use of the library and its memory.
pub struct BlasltSession<'a> {
    library: &'a Blaslt,
    plans: MutexGuard<'a, Plans>,
}

impl BlasltSession<'_> {
    /// Whether the library multiplies so, whatever N.
    pub fn serves(&mut self, shape: Shape) -> bool {
        self.plans.entry(shape).or_insert_with(|| or_unwind(self.library.plan(shape))).is_some()
    }

    /// Memory for the parts of rows.
    pub fn room(&self) -> DeviceSlice {
        self.library.room
    }

    /// c (N, M) = a (N, K) W + b, + c where `add`, of a shape that is served.
    ///
    /// # Panics
    ///
    /// Where a part is smaller than the shape says.
    pub fn multiply(
        &mut self,
        shape: Shape,
        add: bool,
        [a, w, c]: [DeviceSlice; 3],
        b: Option<DeviceSlice>,
    ) {
        let Shape { k, m, stride, along_k, biased, .. } = shape;
        let n = a.len / k;
        let lines = if along_k { m } else { k };
        let whole = a.len == n * k && w.len > stride * (lines - 1) && c.len == n * m;
        assert!(
            whole && b.map(|b| b.len) == biased.then_some(m),
            "cuBLASLt: {shape:?} of {n} rows"
        );
        for from in (0..n).step_by(shape.rows()) {
            let rows = shape.rows().min(n - from);
            let [a, c] = [(a, k), (c, m)].map(|(all, wide)| all.part(from * wide, rows * wide));
            self.enqueue(shape, add, [a, w, c], b);
        }
    }

    /// A product of no more rows than the library gets.
    fn enqueue(
        &self,
        shape: Shape,
        add: bool,
        [a, w, c]: [DeviceSlice; 3],
        b: Option<DeviceSlice>,
    ) {
        let plan = self.plans[&shape].as_ref().expect("a shape that is served");
        let library = self.library;
        or_unwind(library.set_rows(plan, a.len / shape.k));
        if let Some(b) = b {
            or_unwind(library.set(plan.product, Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &b.at));
        }
        let beta = if add { 1.0 } else { 0.0 };
        let pointer = |at: u64| at as *mut c_void;
        // SAFETY: the matrices are as large as the descriptions say, and of this stream.
        let enqueued = unsafe {
            (library.call.cublasLtMatmul)(
                library.handle,
                plan.product,
                &1.0,
                pointer(w.at),
                plan.w,
                pointer(a.at),
                plan.a,
                &beta,
                pointer(c.at),
                plan.c,
                pointer(c.at),
                plan.c,
                &plan.algorithm,
                pointer(library.workspace),
                WORKSPACE,
                library.stream,
            )
        };
        or_unwind(library.call.found.check(enqueued));
    }
}
