//! Launches of `kernels/loss.cu`.

use std::ops::Range;

use bytemuck::cast_slice;

use crate::base::Result;
use crate::gpu::kernels::loss::{LogSoftmax, LossGradient, LossScale, THREADS};
use crate::gpu::launch::{Elem, Grid, int};
use crate::gpu::{Array, Engine};
use crate::ops::cpu::loss::{RowLoss, RowResult};

/// Row i of `logp` (rows, V) = ln softmax of row `rows[i]` of z (R, V).
pub fn log_softmax(engine: &Engine, z: &Array, rows: &Array, v: usize, logp: &mut Array) {
    LogSoftmax { z: z.read(), rows: rows.read(), V: int(v), logp: logp.write() }
        .launch(engine, Grid::line(rows.len(), THREADS));
}

/// A loss as the kernel takes it: the token, or −1 − the row of ln p⁰; and the weight.
fn target_and_weight(loss: &RowLoss) -> (i32, f32) {
    match *loss {
        RowLoss::CrossEntropy { target, weight } => (int(target), weight as f32),
        RowLoss::Kl { reference, weight } => (-1 - int(reference), weight as f32),
    }
}

/// The losses of R rows in groups, and their results.
#[derive(Debug)]
pub struct DeviceLossRows {
    /// (groups, 2) i32: a group's first row, and the first behind it.
    pub groups: Array,
    /// (R) i32: the token, or −1 − the row of ln p⁰.
    pub target: Array,
    /// (R): its weight in the loss.
    pub weight: Array,
    /// (R): its weight in the gradient.
    pub scaled: Array,
    /// (R): its loss, without a weight.
    pub loss: Array,
    /// (R) i32: whether no token is likelier than its target.
    pub is_argmax: Array,
}

impl DeviceLossRows {
    /// The rows of each group, and the loss of each row.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn new(
        engine: &Engine,
        groups: &[Range<usize>],
        rows: &[RowLoss],
    ) -> Result<DeviceLossRows> {
        let (targets, weights): (Vec<i32>, Vec<f32>) = rows.iter().map(target_and_weight).unzip();
        let groups: Vec<i32> = groups.iter().flat_map(|r| [int(r.start), int(r.end)]).collect();
        Ok(DeviceLossRows {
            groups: engine.upload(Elem::I32, cast_slice(&groups))?,
            target: engine.upload(Elem::I32, cast_slice(&targets))?,
            weight: engine.upload(Elem::F32, cast_slice(&weights))?,
            scaled: engine.upload(Elem::F32, cast_slice(&weights))?,
            loss: engine.array(Elem::F32, rows.len())?,
            is_argmax: engine.array(Elem::I32, rows.len())?,
        })
    }

    /// Sets the results of all rows.
    ///
    /// # Errors
    ///
    /// The device has no more memory.
    pub fn set_results(&mut self, results: &[RowResult]) -> Result<()> {
        let (loss, is_argmax): (Vec<f32>, Vec<i32>) =
            results.iter().map(|r| (r.loss as f32, i32::from(r.is_argmax))).unzip();
        self.loss = self.loss.engine().upload(Elem::F32, cast_slice(&loss))?;
        self.is_argmax = self.is_argmax.engine().upload(Elem::I32, cast_slice(&is_argmax))?;
        Ok(())
    }

    /// The results of all rows.
    pub fn results(&self) -> Vec<RowResult> {
        let (loss, is_argmax) = (self.loss.download(), self.is_argmax.download());
        let losses = loss.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into());
        let flags = is_argmax.as_chunks::<4>().0.iter().map(|b| *b != [0; 4]);
        losses.zip(flags).map(|(loss, is_argmax)| RowResult { loss, is_argmax }).collect()
    }
}

/// The weights of the next gradient: factor (groups) times those of cross-entropies. Rows of no
/// group stay as they are.
pub fn scale(engine: &Engine, rows: &mut DeviceLossRows, factor: &Array) {
    LossScale {
        groups: rows.groups.read(),
        target: rows.target.read(),
        weight: rows.weight.read(),
        factor: factor.read(),
        scaled: rows.scaled.update(),
    }
    .launch(engine, Grid::line(factor.len(), THREADS));
}

/// Turns z (n, V), the logits of n of the rows, into scaled·dz in place, and sets their results.
pub fn gradient(
    engine: &Engine,
    z: &mut Array,
    v: usize,
    losses: &mut DeviceLossRows,
    rows: Range<usize>,
    reference: &Array,
    cap: Option<f64>,
) {
    let part = |array: &Array| array.slice().part(rows.start, rows.len());
    LossGradient {
        reference: reference.read(),
        target: part(&losses.target).into(),
        scaled: part(&losses.scaled).into(),
        inverse_cap: cap.map_or(0.0, |c| 1.0 / c) as f32,
        V: int(v),
        z: z.update(),
        loss: part(&losses.loss).into(),
        is_argmax: part(&losses.is_argmax).into(),
    }
    .launch(engine, Grid::line(rows.len(), THREADS));
}
