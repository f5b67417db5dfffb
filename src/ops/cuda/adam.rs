//! The launch of `kernels/adam.cu`.

use crate::gpu::kernels::adam::{Adam, THREADS};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};
use crate::ops::cpu::adam::corrections;

/// The n-th step, from 1, on x, with lr and weight decay; all f32 and of one length. A bound is the
/// centres, and how far x may be from them.
#[allow(clippy::too_many_arguments)] // the four arrays of a step, its number and its rule
pub fn step(
    engine: &Engine,
    [lr, decay]: [f64; 2],
    bound: Option<(&Array, f64)>,
    n: usize,
    g: &Array,
    m: &mut Array,
    v: &mut Array,
    x: &mut Array,
) {
    let [c1, c2] = corrections(n).map(|c| c as f32);
    let (centre, radius) = bound.unwrap_or((g, -1.0)); // below 0: none
    Adam {
        g: g.read(),
        centre: centre.read(),
        n: g.len() as i64,
        lr: lr as f32,
        decay: decay as f32,
        radius: radius as f32,
        c1,
        c2,
        x: x.update(),
        m: m.update(),
        v: v.update(),
    }
    .launch(engine, Grid::each(g.len(), THREADS));
}
