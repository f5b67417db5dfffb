//! Launches of `kernels/codebook.cu`.

use crate::base::or_unwind;
use crate::gpu::kernels::codebook::{NearestKey, ReplaceRows, THREADS};
use crate::gpu::launch::{Elem, Grid, int};
use crate::gpu::{Array, Engine};

/// The key that each of some rows of x (N, F) chooses, by keys (n, F) and radii (n) f32, into
/// `chosen` i32; −1 where it chooses none.
pub fn nearest(
    engine: &Engine,
    x: &Array,
    rows: &Array,
    keys: &Array,
    radii: &Array,
    f: usize,
    chosen: &mut Array,
) {
    NearestKey {
        x: x.read(),
        rows: rows.read(),
        keys: keys.read(),
        radii: radii.read(),
        n: int(radii.len()),
        F: int(f),
        chosen: chosen.write(),
    }
    .launch(engine, Grid::line(rows.len(), THREADS));
}

/// Row `rows[i]` of y (N, D) ← the value (n, D) that choice `of[i]` chose; the
/// values are f32.
pub fn replace(
    engine: &Engine,
    y: &mut Array,
    rows: &Array,
    of: &Array,
    chosen: &Array,
    values: &Array,
    d: usize,
) {
    ReplaceRows {
        values: values.read(),
        rows: rows.read(),
        of: of.read(),
        chosen: chosen.read(),
        m: int(rows.len()),
        D: int(d),
        y: y.update(),
    }
    .launch(engine, Grid::each(rows.len() * d, THREADS));
}

/// The numbers of an array, i32.
pub fn numbers(array: &Array) -> Vec<i32> {
    let number = |b: &[u8]| i32::from_le_bytes(b.try_into().expect("four bytes"));
    array.download().chunks_exact(4).map(number).collect()
}

/// The same on the device.
pub fn upload(engine: &Engine, numbers: &[i32]) -> Array {
    or_unwind(engine.upload(Elem::I32, bytemuck::cast_slice(numbers)))
}
