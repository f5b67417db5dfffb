//! Launches of `kernels/norm.cu`.

use crate::gpu::kernels::norm::{
    BLOCK_THREADS, ITEMS_PER_THREAD, MAX_THREADS, MIN_THREADS, NormBwd, NormFwd, NormHeadsBwd,
    NormHeadsFwd, VEC,
};
use crate::gpu::launch::{DeviceSlice, Grid, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::norm::NormKind;

/// The frozen parameters of one normalisation.
#[derive(Clone, Copy)]
pub struct DeviceNorm<'a> {
    /// Layer or RMS.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f32,
    /// g (D).
    pub gain: &'a Array,
    /// b (D).
    pub bias: Option<&'a Array>,
}

impl DeviceNorm<'_> {
    fn centred(&self) -> i32 {
        i32::from(self.kind == NormKind::Layer)
    }
}

/// As many threads a row as hold it, and as many rows a block as it has threads for.
fn grid(n: usize, d: usize) -> Grid {
    let threads = d.div_ceil(VEC * ITEMS_PER_THREAD).next_power_of_two();
    let threads = threads.clamp(MIN_THREADS, MAX_THREADS);
    let rows = (BLOCK_THREADS / threads).max(1);
    Grid { threads: [threads as u32, rows as u32, 1], ..Grid::line(n.div_ceil(rows), threads) }
}

/// What a pass leaves for the one back: x (N, D), and m and s (N).
pub struct DeviceSaved<'a> {
    /// x.
    pub x: &'a mut Array,
    /// m.
    pub m: &'a mut Array,
    /// s.
    pub s: &'a mut Array,
}

/// y (N, D) from x (N, D).
pub fn forward(engine: &Engine, x: &Array, p: DeviceNorm, y: &mut Array, kept: DeviceSaved) {
    of_sum(engine, x.slice(), None, p, y, kept);
}

/// x += added (N, D), and y of that.
pub fn forward_adding(
    engine: &Engine,
    x: &mut Array,
    added: &Array,
    p: DeviceNorm,
    y: &mut Array,
    kept: DeviceSaved,
) {
    of_sum(engine, x.slice(), Some(added), p, y, kept);
}

/// x is a slice: the kernel writes it only where something is added, and then the caller has it
/// alone.
fn of_sum(
    engine: &Engine,
    x: DeviceSlice,
    added: Option<&Array>,
    p: DeviceNorm,
    y: &mut Array,
    kept: DeviceSaved,
) {
    let (n, d, DeviceSaved { x: kept, m, s }) = (kept.m.len(), p.gain.len(), kept);
    NormFwd {
        added: added.unwrap_or(p.gain).read(),
        g: p.gain.read(),
        b: p.bias.unwrap_or(p.gain).read(),
        eps: p.eps,
        centred: p.centred(),
        biased: i32::from(p.bias.is_some()),
        adds: i32::from(added.is_some()),
        N: int(n),
        D: int(d),
        x: x.into(),
        kept: kept.write(),
        y: y.write(),
        m: m.write(),
        s: s.write(),
    }
    .launch(engine, grid(n, d));
}

/// dx += the gradient that reaches x (N, D) through the normalisation from dy.
pub fn backward(
    engine: &Engine,
    dy: &Array,
    p: DeviceNorm,
    x: &Array,
    [m, s]: [&Array; 2],
    dx: &mut Array,
) {
    let n = m.len();
    let d = p.gain.len();
    NormBwd {
        dy: dy.read(),
        g: p.gain.read(),
        x: x.read(),
        m: m.read(),
        s: s.read(),
        centred: p.centred(),
        N: int(n),
        D: int(d),
        dx: dx.update(),
    }
    .launch(engine, grid(n, d));
}

/// Every head of x (N, heads·E) ← itself normalised; what is saved is of (N·heads, E).
pub fn heads_forward(engine: &Engine, x: &mut Array, p: DeviceNorm, kept: DeviceSaved) {
    let (n, d, DeviceSaved { x: kept, m, s }) = (kept.m.len(), p.gain.len(), kept);
    NormHeadsFwd {
        g: p.gain.read(),
        b: p.bias.unwrap_or(p.gain).read(),
        eps: p.eps,
        centred: p.centred(),
        biased: i32::from(p.bias.is_some()),
        N: int(n),
        D: int(d),
        x: x.update(),
        kept: kept.write(),
        m: m.write(),
        s: s.write(),
    }
    .launch(engine, grid(n, d));
}

/// Turns the gradient for normalised heads (N, heads·E) into that for them as they were, x.
pub fn heads_backward(
    engine: &Engine,
    p: DeviceNorm,
    x: &Array,
    [m, s]: [&Array; 2],
    d: &mut Array,
) {
    let n = m.len();
    let width = p.gain.len();
    NormHeadsBwd {
        g: p.gain.read(),
        x: x.read(),
        m: m.read(),
        s: s.read(),
        centred: p.centred(),
        N: int(n),
        D: int(width),
        d: d.update(),
    }
    .launch(engine, grid(n, width));
}
