//! Launches of `kernels/rows.cu`.

use std::ops::Range;

use crate::base::or_unwind;
use crate::gpu::kernels::rows::{
    AddRows, CapRows, GatherRows, RoundRows, ScaleRows, ScatterRows, THREADS,
};
use crate::gpu::launch::{DeviceSlice, Elem, Grid, int};
use crate::gpu::{Array, Engine};

/// Where a part of a row is: the row's width, the part's first column and its width.
type Part = [usize; 3];

/// Numbers of rows, on the device.
pub fn indices(engine: &Engine, rows: impl Iterator<Item = usize>) -> Array {
    let rows: Vec<i32> = rows.map(int).collect();
    or_unwind(engine.upload(Elem::I32, bytemuck::cast_slice(&rows)))
}

/// Row i of y (n, D) = part of row `rows[i]` of x (N, wide).
pub fn gather(engine: &Engine, x: &Array, [wide, from, d]: Part, rows: &Array, y: &mut Array) {
    let n = rows.len();
    GatherRows {
        x: x.read(),
        rows: rows.read(),
        wide: int(wide),
        from: int(from),
        n: int(n),
        D: int(d),
        y: y.write(),
    }
    .launch(engine, Grid::each(n * d, THREADS));
}

/// Part of row `rows[i]` of x (N, wide) += row i of y (n, D). Rows may repeat; the order is theirs.
pub fn scatter_add(engine: &Engine, x: &mut Array, [wide, from, d]: Part, rows: &Array, y: &Array) {
    ScatterRows {
        y: y.read(),
        rows: rows.read(),
        wide: int(wide),
        from: int(from),
        n: int(rows.len()),
        D: int(d),
        x: x.update(),
    }
    .launch(engine, Grid::each(d, THREADS));
}

/// Elements of y from `to` on become some of x, which is of their type, or f32 and rounded to it.
pub fn put(engine: &Engine, x: &Array, elements: Range<usize>, y: &mut Array, to: usize) {
    if x.elem() == y.elem() {
        return y.copy(to, x, elements);
    }
    let n = elements.len();
    round(engine, x.slice().part(elements.start, n), y.slice().part(to, n));
}

/// y = x in its own type, of the same length; x f32.
pub fn round(engine: &Engine, x: DeviceSlice, y: DeviceSlice) {
    let n = x.len;
    RoundRows { x: x.into(), n: n as i64, y: y.into() }.launch(engine, Grid::each(n, THREADS));
}

/// x *= a.
pub fn scale(engine: &Engine, x: &mut Array, a: f32) {
    let n = x.len();
    ScaleRows { a, n: n as i64, x: x.update() }.launch(engine, Grid::each(n, THREADS));
}

/// x ← c tanh(x / c).
pub fn cap(engine: &Engine, x: &mut Array, c: f32) {
    let n = x.len();
    CapRows { c, n: n as i64, x: x.update() }.launch(engine, Grid::each(n, THREADS));
}

/// x += y, of the same length.
pub fn add(engine: &Engine, x: &mut Array, y: &Array) {
    assert_eq!(x.len(), y.len(), "add: arrays of two lengths");
    let n = x.len();
    AddRows { y: y.read(), n: n as i64, x: x.update() }.launch(engine, Grid::each(n, THREADS));
}
