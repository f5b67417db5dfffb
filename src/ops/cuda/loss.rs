//! Launches of `kernels/loss.cu`.

use crate::base::fits;
use crate::gpu::kernels::loss::{LogSoftmax, LossGradient, THREADS};
use crate::gpu::launch::{Elem, Grid};
use crate::gpu::{Array, Engine};
use crate::ops::loss::{Aim, Said};

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

/// Turns z (R, V) into weight·dz in place and returns what each row says.
pub fn said(engine: &Engine, z: &mut Array, v: usize, aims: &[Aim], first: &Array) -> Vec<Said> {
    let (targets, weights): (Vec<i32>, Vec<f32>) = aims.iter().map(aim).unzip();
    let target = fits(engine.upload(Elem::I32, bytemuck::cast_slice(&targets)));
    let weight = fits(engine.upload(Elem::F32, bytemuck::cast_slice(&weights)));
    let mut loss = fits(engine.array(Elem::F32, aims.len()));
    let mut top = fits(engine.array(Elem::I32, aims.len()));
    gradient(engine, z, v, (&target, &weight), first, &mut loss, &mut top);
    let (loss, top) = (loss.download(), top.download());
    let losses = loss.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into());
    let tops = top.as_chunks::<4>().0.iter().map(|b| *b != [0; 4]);
    losses.zip(tops).map(|(loss, top)| Said { loss, top }).collect()
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
