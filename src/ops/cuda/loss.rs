//! Launches of `kernels/loss.cu`.

use crate::gpu::kernels::loss::{LogSoftmax, LossGradient, THREADS};
use crate::gpu::launch::Grid;
use crate::gpu::{Array, Engine};
use crate::ops::loss::Aim;

/// Row i of `logp` (rows, V) = ln softmax of row `rows[i]` of z (R, V).
pub fn log_softmax(engine: &Engine, z: &Array, rows: &Array, v: usize, logp: &mut Array) {
    LogSoftmax { z: z.read(), rows: rows.read(), V: v as i32, logp: logp.write() }
        .launch(engine, Grid::line(rows.len(), THREADS as u32));
}

/// An aim as the kernel takes it: the token, or −1 − the row of ln p⁰; and the factor.
pub fn aim(aim: &Aim) -> (i32, f32) {
    match *aim {
        Aim::Say { target, weight } => (target as i32, weight as f32),
        Aim::Stay { first, weight } => (-1 - first as i32, weight as f32),
    }
}

/// Turns z (R, V) into weight·dz in place; gives loss and `top` (R) of each row.
#[allow(clippy::too_many_arguments, reason = "three inputs, three outputs, a size")]
pub fn gradient(
    engine: &Engine,
    z: &mut Array,
    v: usize,
    (target, weight): (&Array, &Array),
    first: &Array,
    loss: &mut Array,
    top: &mut Array,
) {
    let rows = target.len();
    LossGradient {
        first: first.read(),
        target: target.read(),
        weight_of: weight.read(),
        V: v as i32,
        z: z.update(),
        loss: loss.write(),
        top: top.write(),
    }
    .launch(engine, Grid::line(rows, THREADS as u32));
}
