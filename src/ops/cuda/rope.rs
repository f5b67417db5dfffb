//! Launches of `kernels/rope.cu`.

use crate::gpu::kernels::rope::{RopeTurn, THREADS};
use crate::gpu::launch::{Grid, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::rope::Pairing;

/// The angles of a batch: cos and sin (N, half).
#[derive(Clone, Copy)]
pub struct DeviceAngles<'a> {
    /// cos(position · frequency).
    pub cos: &'a Array,
    /// sin(position · frequency).
    pub sin: &'a Array,
    /// Pairs of a head that turn.
    pub half: usize,
    /// Which elements turn together.
    pub pairing: Pairing,
}

/// Rotates every head of x (N, heads·width); `back` rotates the other way, which is the gradient.
pub fn rotate(
    engine: &Engine,
    x: &mut Array,
    [heads, width]: [usize; 2],
    angles: DeviceAngles,
    back: bool,
) {
    let n = x.len() / (heads * width);
    RopeTurn {
        cos: angles.cos.read(),
        sin: angles.sin.read(),
        adjacent: i32::from(angles.pairing == Pairing::Adjacent),
        back: i32::from(back),
        N: int(n),
        H: int(heads),
        E: int(width),
        half: int(angles.half),
        x: x.update(),
    }
    .launch(engine, Grid::each(n * heads * angles.half, THREADS));
}
