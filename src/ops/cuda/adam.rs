//! Launches of `kernels/adam.cu`.

use super::loss::Aims;
use crate::base::Result;
use crate::gpu::kernels::adam::{AdamStep, AdamWeights, BROKEN, ENDED, RUNNING, THREADS};
use crate::gpu::launch::{Elem, Grid};
use crate::gpu::{Array, Engine};
use crate::ops::adam::{Rule, State};

/// The slots of a batch on the device, f32 but for `state`.
pub struct Slots<'a> {
    /// t₀ (S, P·D).
    pub t0: &'a Array,
    /// δ (S, P·D).
    pub delta: &'a mut Array,
    /// First moments (S, P·D).
    pub m: &'a mut Array,
    /// Second moments (S, P·D).
    pub v: &'a mut Array,
    /// f of the next look (S).
    pub factor: &'a mut Array,
    /// What each look saw (S, steps, 4): say times f, stay, decay, target tokens missed.
    pub trace: &'a mut Array,
    /// (S, 2) i32: what each is doing; its looks at the loss so far.
    pub state: &'a mut Array,
}

/// States and looks (S, 2), told to the device.
///
/// # Errors
///
/// The device has no more memory.
pub fn told(engine: &Engine, states: &[(State, usize)]) -> Result<Array> {
    let number = |state| match state {
        State::Running => RUNNING,
        State::Ended => ENDED,
        State::Broken => BROKEN,
    };
    let told = states.iter().flat_map(|&(state, n)| [number(state) as i32, n as i32]);
    engine.upload(Elem::I32, bytemuck::cast_slice(&told.collect::<Vec<i32>>()))
}

/// States and looks (S, 2), as the device has them.
pub fn states(told: &Array) -> Vec<(State, usize)> {
    let bytes = told.download();
    let numbers = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as usize);
    let state = |number| match number {
        RUNNING => State::Running,
        BROKEN => State::Broken,
        _ => State::Ended,
    };
    let numbers: Vec<usize> = numbers.collect();
    numbers.chunks_exact(2).map(|pair| (state(pair[0]), pair[1])).collect()
}

/// One look at every loss, and one step of every δ that goes on; g (S, P·D) f32 is the gradient of
/// the rows' losses, with f in it.
pub fn step(engine: &Engine, by: &Rule, d: usize, aims: &Aims, g: &Array, slots: Slots) {
    let s = slots.factor.len();
    AdamStep {
        g: g.read(),
        t0: slots.t0.read(),
        rows: aims.rows.read(),
        target: aims.target.read(),
        weight: aims.weight.read(),
        loss: aims.loss.read(),
        top: aims.top.read(),
        lr: by.lr as f32,
        decay: by.decay as f32,
        clamp: by.clamp as f32,
        nll_factor: by.nll_factor as f32,
        enough: by.enough as f32,
        eases: i32::from(by.eases),
        steps: by.steps as i32,
        P: (g.len() / (s * d).max(1)) as i32,
        D: d as i32,
        delta: slots.delta.update(),
        m: slots.m.update(),
        v: slots.v.update(),
        state: slots.state.update(),
        factor: slots.factor.update(),
        trace: slots.trace.update(),
    }
    .launch(engine, Grid::line(s, THREADS as u32));
}

/// The weights of the next gradient: f (S) times those of rows that say. Rows of no slot stay as
/// they are.
pub fn weigh(engine: &Engine, aims: &mut Aims, factor: &Array) {
    AdamWeights {
        rows: aims.rows.read(),
        target: aims.target.read(),
        weight: aims.weight.read(),
        factor: factor.read(),
        weighed: aims.weighed.update(),
    }
    .launch(engine, Grid::line(factor.len(), THREADS as u32));
}
