//! Launches of `kernels/loss.cu`.

use std::ops::Range;

use bytemuck::cast_slice;

use crate::base::Result;
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
fn aim(aim: &Aim) -> (i32, f32) {
    match *aim {
        Aim::Say { target, weight } => (target as i32, weight as f32),
        Aim::Stay { first, weight } => (-1 - first as i32, weight as f32),
    }
}

/// What R rows are asked for, and what they said, in S slots.
#[derive(Debug)]
pub struct Aims {
    /// (S, 2) i32: the first of a slot's rows, and the first that is not.
    pub rows: Array,
    /// (R) i32: the token a row says, below zero where it stays.
    pub target: Array,
    /// (R): its weight in the loss.
    pub weight: Array,
    /// (R): its weight in the gradient.
    pub weighed: Array,
    /// (R): its loss, without a weight.
    pub loss: Array,
    /// (R) i32: whether no token is likelier than its target.
    pub top: Array,
}

impl Aims {
    /// The rows of each slot, and the aim of each row.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn new(engine: &Engine, slots: &[Range<usize>], aims: &[Aim]) -> Result<Aims> {
        let (targets, weights): (Vec<i32>, Vec<f32>) = aims.iter().map(aim).unzip();
        let rows: Vec<i32> = slots.iter().flat_map(|r| [r.start as i32, r.end as i32]).collect();
        Ok(Aims {
            rows: engine.upload(Elem::I32, cast_slice(&rows))?,
            target: engine.upload(Elem::I32, cast_slice(&targets))?,
            weight: engine.upload(Elem::F32, cast_slice(&weights))?,
            weighed: engine.upload(Elem::F32, cast_slice(&weights))?,
            loss: engine.array(Elem::F32, aims.len())?,
            top: engine.array(Elem::I32, aims.len())?,
        })
    }

    /// Makes the rows say what was found elsewhere.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn tell(&mut self, said: &[Said]) -> Result<()> {
        let (loss, top): (Vec<f32>, Vec<i32>) =
            said.iter().map(|s| (s.loss as f32, i32::from(s.top))).unzip();
        self.loss = self.loss.engine().upload(Elem::F32, cast_slice(&loss))?;
        self.top = self.top.engine().upload(Elem::I32, cast_slice(&top))?;
        Ok(())
    }

    /// What each row said.
    pub fn said(&self) -> Vec<Said> {
        let (loss, top) = (self.loss.download(), self.top.download());
        let losses = loss.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into());
        let tops = top.as_chunks::<4>().0.iter().map(|b| *b != [0; 4]);
        losses.zip(tops).map(|(loss, top)| Said { loss, top }).collect()
    }
}

/// Turns z (n, V), the logits of n of the rows, into weighed·dz in place; gives their losses.
pub fn gradient(
    engine: &Engine,
    z: &mut Array,
    v: usize,
    aims: &mut Aims,
    rows: Range<usize>,
    first: &Array,
) {
    let part = |array: &Array| array.slice().part(rows.start, rows.len());
    LossGradient {
        first: first.read(),
        target: part(&aims.target).into(),
        weight_of: part(&aims.weighed).into(),
        V: v as i32,
        z: z.update(),
        loss: part(&aims.loss).into(),
        top: part(&aims.top).into(),
    }
    .launch(engine, Grid::line(rows.len(), THREADS as u32));
}
