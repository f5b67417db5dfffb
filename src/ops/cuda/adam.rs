//! The launch of `kernels/adam.cu`.

use crate::gpu::kernels::adam::{Adam, THREADS};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};
use crate::ops::cpu::adam::corrections;

/// The n-th step, from 1, on x; all f32 and of one length.
pub fn step(
    engine: &Engine,
    lr: f64,
    n: usize,
    g: &Array,
    m: &mut Array,
    v: &mut Array,
    x: &mut Array,
) {
    let [c1, c2] = corrections(n).map(|c| c as f32);
    Adam {
        g: g.read(),
        n: g.len() as i64,
        lr: lr as f32,
        c1,
        c2,
        x: x.update(),
        m: m.update(),
        v: v.update(),
    }
    .launch(engine, Grid::each(g.len(), THREADS));
}
