//! Launches of `kernels/adam.cu`.

use crate::base::Result;
use crate::gpu::kernels::adam::{
    AdamStart, AdamStep, AdamWeights, BROKEN, ENDED, RUNNING, THREADS,
};
use crate::gpu::launch::{Elem, Grid};
use crate::gpu::{Array, Engine};
use crate::ops::adam::{Rule, State};

/// The slots of a batch on the device, f32 but for `state`.
pub struct Slots {
    /// t₀ (S, P·D).
    pub t0: Array,
    /// δ (S, P·D).
    pub delta: Array,
    /// First moments (S, P·D).
    pub m: Array,
    /// Second moments (S, P·D).
    pub v: Array,
    /// (S, 2): what each is doing, see [`state`]; looks at the loss so far.
    pub state: Array,
    /// f of the next look (S).
    pub factor: Array,
    /// What each look saw (S, steps, 4): say times f, stay, decay, target tokens missed.
    pub trace: Array,
}

impl Slots {
    /// S empty slots for parts of D in all P·D wide.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn new(engine: &Engine, s: usize, wide: usize, steps: usize) -> Result<Slots> {
        let array = |len| engine.array(Elem::F32, s * len);
        let empty: Vec<u8> = [ENDED as i32, 0].iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(Slots {
            t0: array(wide)?,
            delta: array(wide)?,
            m: array(wide)?,
            v: array(wide)?,
            state: engine.upload(Elem::I32, &empty.repeat(s))?,
            factor: array(1)?,
            trace: array(4 * steps)?,
        })
    }
}

/// What a number of `state` says.
pub fn state(number: i32) -> State {
    match number as usize {
        RUNNING => State::Running,
        BROKEN => State::Broken,
        _ => State::Ended,
    }
}

/// The losses of a batch's rows of logits, as `loss` takes and gives them.
#[derive(Clone, Copy)]
pub struct Losses<'a> {
    /// (S, 2) i32: the first of a slot's rows, and the first that is not.
    pub rows: &'a Array,
    /// (R) i32: the token a row says, below zero where it stays.
    pub target: &'a Array,
    /// (R): its weight in the loss, without f.
    pub weight: &'a Array,
    /// (R): its loss.
    pub loss: &'a Array,
    /// (R) i32: whether no token is likelier than its target.
    pub top: &'a Array,
}

/// One look at every loss, and one step of every δ that goes on; g (S, P·D) f32 is the gradient of
/// the rows' losses, with f in it.
pub fn step(engine: &Engine, by: &Rule, d: usize, of: Losses, g: &Array, slots: &mut Slots) {
    let s = slots.factor.len();
    AdamStep {
        g: g.read(),
        t0: slots.t0.read(),
        rows: of.rows.read(),
        target: of.target.read(),
        weight: of.weight.read(),
        loss: of.loss.read(),
        top: of.top.read(),
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

/// The weights (R) that `loss::gradient` takes in the next step: f in those of rows that say.
/// Rows of no slot stay as they are.
pub fn weights(
    engine: &Engine,
    [rows, target, weight]: [&Array; 3],
    slots: &Slots,
    scaled: &mut Array,
) {
    let s = slots.factor.len();
    AdamWeights {
        rows: rows.read(),
        target: target.read(),
        weight: weight.read(),
        factor: slots.factor.read(),
        scaled: scaled.update(),
    }
    .launch(engine, Grid::line(s, THREADS as u32));
}

/// Begins searches in the slots `into` (n) i32, each of them named once, for t₀ (n, P·D) f32.
pub fn start(engine: &Engine, by: &Rule, into: &Array, t0: &Array, slots: &mut Slots) {
    let n = into.len();
    AdamStart {
        slots: into.read(),
        from: t0.read(),
        nll_factor: by.nll_factor as f32,
        wide: (t0.len() / n.max(1)) as i32,
        t0: slots.t0.update(),
        delta: slots.delta.update(),
        m: slots.m.update(),
        v: slots.v.update(),
        state: slots.state.update(),
        factor: slots.factor.update(),
    }
    .launch(engine, Grid::line(n, THREADS as u32));
}
