//! Launches of `kernels/cholesky.cu`: blocks of a triangle one after another. cuSOLVER, if found,
//! solves whole systems.

use crate::base::or_unwind;
use crate::gpu::cusolver::{Lower, fits};
use crate::gpu::kernels::cholesky::{
    CholeskyFactor, CholeskySolve, CholeskyUpdate, PANEL, SYSTEMS, THREADS, TILE, UPDATE_THREADS,
};
use crate::gpu::launch::{DeviceSlice, Elem, Grid, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::cholesky::{Side, Systems, Triangle};

/// The elements from one on.
fn from(slice: DeviceSlice, at: usize) -> DeviceSlice {
    slice.part(at, slice.len - at)
}

/// Turns A f64 into L and B f64 into A⁻¹B. Where a pivot is not a positive number, its index, and
/// B is not solved.
pub fn divide(
    engine: &Engine,
    a: &mut Array,
    of: Triangle,
    x: &mut Array,
    systems: Systems,
) -> Option<usize> {
    let hold = engine.hold();
    let mut bad = or_unwind(engine.upload(Elem::I32, &(-1i32).to_le_bytes()));
    let pivot = |bad: &Array| {
        let bytes = bad.download();
        i32::from_le_bytes(*bytes.first_chunk().expect("one number"))
    };
    // Other layouts than the library's go to our kernels, and what is too large for it.
    let cusolver = engine.cusolver().filter(|_| {
        let fits = fits(of.n, of.ld, [systems.count, systems.across]);
        systems.down == 1 && !of.is_empty() && fits
    });
    let Some(cusolver) = cusolver else {
        factor(engine, a, of, &mut bad);
        for side in [Side::Lower, Side::Upper] {
            solve(engine, a, of, &bad, side, x, systems);
        }
        return usize::try_from(pivot(&bad)).ok();
    };
    let l = Lower { slice: a.slice(), n: of.n, ld: of.ld };
    let work = or_unwind(engine.array(Elem::F64, cusolver.work(l)));
    cusolver.factor(&hold, l, work.slice(), bad.slice());
    match pivot(&bad) {
        0 => {
            let across = [systems.count, systems.across];
            cusolver.solve(&hold, l, x.slice(), across, bad.slice());
        }
        // The library counts from one; below 0 are its parameters.
        index => return Some(usize::try_from(index - 1).expect("parameters as they should be")),
    }
    None
}

/// Turns A f64 into L. `bad` (1) i32 becomes −1, or the index of the first pivot that is not a
/// positive number; then nothing was written from its block on.
pub fn factor(engine: &Engine, a: &mut Array, of: Triangle, bad: &mut Array) {
    let Triangle { n, ld } = of;
    for k in (0..n.max(1)).step_by(PANEL) {
        let own = PANEL.min(n - k);
        let diagonal = from(a.slice(), k * ld + k);
        CholeskyFactor {
            from: int(k),
            n: int(own),
            ld: ld as i64,
            a: diagonal.into(),
            bad: bad.update(),
        }
        .launch(engine, Grid::line(1, THREADS));
        let left = n - k - own;
        if left > 0 {
            // Rows below are systems L x = b.
            let below = from(diagonal, own * ld);
            let rows = Systems { count: left, down: 1, across: ld };
            block(engine, diagonal, [own, ld], bad, Side::Lower, below, rows);
            let product = Product {
                a: Factor { slice: below, along: ld, k: 1 },
                b: Factor { slice: below, along: ld, k: 1 },
                c: from(below, own),
                steps: [ld, 1],
                sizes: [left, own, left],
                lower: true,
            };
            product.take_off(engine, bad);
        }
    }
}

/// The lower triangle of A (N, N) f64, rows N apart, += KKᵀ; K (N, k) f64, columns N apart.
pub fn add_gram(engine: &Engine, a: &mut Array, n: usize, k: &Array) {
    let factor = Factor { slice: k.slice(), along: 1, k: n };
    let sizes = [n, k.len() / n.max(1), n];
    let product = Product { a: factor, b: factor, c: a.slice(), steps: [n, 1], sizes, lower: true };
    product.add(engine);
}

/// A Bᵀ (M, N) f64, row by row, of A (M, k) and B (N, k), both column by column.
pub fn product(engine: &Engine, [m, n]: [usize; 2], [a, b]: [&Array; 2]) -> Array {
    let mut c = or_unwind(engine.array(Elem::F64, 0));
    or_unwind(c.resize(m * n)); // zeros
    let factor = |of: &Array, along: usize| Factor { slice: of.slice(), along: 1, k: along };
    let sizes = [m, a.len() / m.max(1), n];
    let a = factor(a, m);
    let b = factor(b, n);
    let steps = [n, 1];
    Product { a, b, c: c.slice(), steps, sizes, lower: false }.add(engine);
    c
}

/// Turns B f64 into X, with L as [`factor`] left it; does nothing where `bad` names a pivot.
#[allow(clippy::too_many_arguments, reason = "two matrices and their layouts")]
pub fn solve(
    engine: &Engine,
    l: &Array,
    of: Triangle,
    bad: &Array,
    side: Side,
    x: &mut Array,
    systems: Systems,
) {
    let (Triangle { n, ld }, Systems { count, down, across }) = (of, systems);
    let mut blocks: Vec<usize> = (0..n).step_by(PANEL).collect();
    if side == Side::Upper {
        blocks.reverse();
    }
    for k in blocks {
        let own = PANEL.min(n - k);
        let known = from(x.slice(), k * down);
        block(engine, from(l.slice(), k * ld + k), [own, ld], bad, side, known, systems);
        // The other unknowns, and the part of L (left, own) that multiplies these.
        let (first, left) = match side {
            Side::Lower => (k + own, n - k - own),
            Side::Upper => (0, k),
        };
        if left == 0 {
            continue;
        }
        let part = match side {
            Side::Lower => Factor { slice: from(l.slice(), first * ld + k), along: ld, k: 1 },
            Side::Upper => Factor { slice: from(l.slice(), k * ld), along: 1, k: ld },
        };
        let known = Factor { slice: known, along: across, k: down };
        let c = from(x.slice(), first * down);
        // Neighbours in memory are neighbours in a row of c.
        let (a, b, steps, sizes) = match across {
            1 => (part, known, [down, across], [left, own, count]),
            _ => (known, part, [across, down], [count, own, left]),
        };
        Product { a, b, c, steps, sizes, lower: false }.take_off(engine, bad);
    }
}

/// Solves systems with a diagonal block.
fn block(
    engine: &Engine,
    l: DeviceSlice,
    [n, ld]: [usize; 2],
    bad: &Array,
    side: Side,
    x: DeviceSlice,
    systems: Systems,
) {
    CholeskySolve {
        l: l.into(),
        bad: bad.read(),
        n: int(n),
        ld: ld as i64,
        transposed: i32::from(side == Side::Upper),
        systems: int(systems.count),
        down: systems.down as i64,
        across: systems.across as i64,
        x: x.into(),
    }
    .launch(engine, Grid::line(systems.count.div_ceil(SYSTEMS), THREADS));
}

/// A factor of a product: elements from a row (or column) of the product to the next, and from a
/// summand to the next.
#[derive(Clone, Copy)]
struct Factor {
    slice: DeviceSlice,
    along: usize,
    k: usize,
}

/// A product of some rows and columns, and its destination.
struct Product {
    a: Factor,
    b: Factor,
    c: DeviceSlice,
    steps: [usize; 2], // from a row and from a column of c to the next
    sizes: [usize; 3], // rows, summands, columns
    lower: bool,       // the lower triangle only
}

impl Product {
    /// c += a b.
    fn add(self, engine: &Engine) {
        let good = or_unwind(engine.upload(Elem::I32, &(-1i32).to_le_bytes()));
        self.launch(engine, &good, true);
    }

    /// c −= a b, unless `bad` names a pivot.
    fn take_off(self, engine: &Engine, bad: &Array) {
        self.launch(engine, bad, false);
    }

    fn launch(self, engine: &Engine, bad: &Array, adds: bool) {
        let [rows, k, columns] = self.sizes;
        let [down, across] = [rows, columns].map(|size| size.div_ceil(TILE));
        CholeskyUpdate {
            a: self.a.slice.into(),
            b: self.b.slice.into(),
            bad: bad.read(),
            a_row: self.a.along as i64,
            a_k: self.a.k as i64,
            b_k: self.b.k as i64,
            b_col: self.b.along as i64,
            R: int(rows),
            K: int(k),
            C: int(columns),
            lower: i32::from(self.lower),
            adds: i32::from(adds),
            c_row: self.steps[0] as i64,
            c_col: self.steps[1] as i64,
            c: self.c.into(),
        }
        .launch(engine, Grid::of([across, down, 1], UPDATE_THREADS));
    }
}
