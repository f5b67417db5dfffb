//! The launch of `kernels/search_step.cu`.

use super::loss::DeviceLossRows;
use crate::base::Result;
use crate::gpu::kernels::search_step::{ACTIVE, CONVERGED, DIVERGED, SearchStep, THREADS};
use crate::gpu::launch::{Elem, Grid, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::search_step::{SearchRule, SearchStatus};

/// The slots of a batch on the device, f32 but for `status`.
pub struct DeviceSearchSlots<'a> {
    /// t₀ (S, P·D).
    pub t0: &'a Array,
    /// δ (S, P·D).
    pub delta: &'a mut Array,
    /// First moments (S, P·D).
    pub m: &'a mut Array,
    /// Second moments (S, P·D).
    pub v: &'a mut Array,
    /// f of the next step (S).
    pub factor: &'a mut Array,
    /// The losses of each step (S, steps, 4).
    pub trace: &'a mut Array,
    /// (S, 2) i32: what each is doing; the steps it took.
    pub status: &'a mut Array,
}

/// What each slot is doing and its steps (S, 2), on the device.
///
/// # Errors
///
/// The device has no more memory.
pub fn upload_status(engine: &Engine, status: &[(SearchStatus, usize)]) -> Result<Array> {
    let number = |status| match status {
        SearchStatus::Active => ACTIVE,
        SearchStatus::Converged => CONVERGED,
        SearchStatus::Diverged => DIVERGED,
    };
    let numbers = status.iter().flat_map(|&(status, n)| [int(number(status)), int(n)]);
    engine.upload(Elem::I32, bytemuck::cast_slice(&numbers.collect::<Vec<i32>>()))
}

/// What each slot is doing and its steps, from the device.
pub fn download_status(device: &Array) -> Vec<(SearchStatus, usize)> {
    let bytes = device.download();
    let numbers = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as usize);
    let status = |number| match number {
        ACTIVE => SearchStatus::Active,
        DIVERGED => SearchStatus::Diverged,
        _ => SearchStatus::Converged,
    };
    let numbers: Vec<usize> = numbers.collect();
    numbers.chunks_exact(2).map(|pair| (status(pair[0]), pair[1])).collect()
}

/// The loss of every active slot, and one step of its δ where the search goes on; g (S, P·D) f32
/// is the gradient of the rows' losses, with f in it.
pub fn step(
    engine: &Engine,
    rule: &SearchRule,
    d: usize,
    losses: &DeviceLossRows,
    g: &Array,
    slots: DeviceSearchSlots,
) {
    let s = slots.factor.len();
    SearchStep {
        g: g.read(),
        t0: slots.t0.read(),
        rows: losses.groups.read(),
        target: losses.target.read(),
        weight: losses.weight.read(),
        loss: losses.loss.read(),
        is_argmax: losses.is_argmax.read(),
        lr: rule.lr as f32,
        weight_decay: rule.weight_decay as f32,
        clamp: rule.clamp as f32,
        nll_factor: rule.nll_factor as f32,
        loss_tolerance: rule.stop.loss_tolerance as f32,
        anneal_nll: i32::from(rule.stop.anneal_nll),
        max_steps: int(rule.stop.max_steps),
        P: int(g.len() / (s * d).max(1)),
        D: int(d),
        delta: slots.delta.update(),
        m: slots.m.update(),
        v: slots.v.update(),
        status: slots.status.update(),
        factor: slots.factor.update(),
        trace: slots.trace.update(),
    }
    .launch(engine, Grid::line(s, THREADS));
}
