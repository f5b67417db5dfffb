//! Cross-entropy and KL at rows of logits z (R, V), and their gradient into z.
//!
//! ```text
//! p = softmax(z)
//! cross-entropy   −ln p_y                                 dz = p − e_y
//! kl              KL = Σ_v p_v (ln p_v − ln p⁰_v)          dz_v = p_v (ln p_v − ln p⁰_v − KL)
//! z = c tanh(z'/c)                                        dz' = dz (1 − (z/c)²)
//! ```
//!
//! The direction is KL(now ‖ reference). Where ln p⁰ is [`log_softmax`] of the same row, the KL is
//! exactly 0. Rows come in groups, one after the other; a group's cross-entropies have a common
//! factor that may change from pass to pass.

use std::ops::Range;

pub use super::cpu::loss::{RowLoss, RowResult};
use super::{cpu, cuda};
use crate::base::or_unwind;
use crate::tensor::{Compute, Tensor, on, shapes};

/// Row i of `logp` (rows.len(), V) = ln softmax of row `rows[i]` of z.
pub fn log_softmax(z: &Tensor, rows: &[usize], logp: &mut Tensor) {
    let [_, v] = z.dims();
    shapes!("log_softmax": logp => [rows.len(), v]);
    on!(z,
        host T => cpu::loss::log_softmax::<T>(z.get(), v, rows, logp.get_mut()),
        device e => {
            let rows = cuda::rows::indices(e, rows.iter().copied());
            cuda::loss::log_softmax(e, z.array(), &rows, v, logp.array_mut());
        },
    );
}

/// The losses of R rows of logits, in groups, and what the last pass found them to be.
#[derive(Debug, Default)]
pub struct LossRows {
    rows: Vec<RowLoss>,
    groups: Vec<Range<usize>>,
    scaled: Vec<RowLoss>, // on the host, as are the results
    results: Vec<RowResult>,
    device: Option<cuda::loss::DeviceLossRows>,
}

impl LossRows {
    /// The rows of each group, and the loss of each row.
    pub fn new(compute: &Compute, groups: Vec<Range<usize>>, rows: Vec<RowLoss>) -> LossRows {
        let on_device = |e| or_unwind(cuda::loss::DeviceLossRows::new(e, &groups, &rows));
        LossRows {
            device: compute.engine().map(on_device),
            scaled: rows.clone(),
            results: vec![RowResult::default(); rows.len()],
            rows,
            groups,
        }
    }

    /// Sets the factor of each group's cross-entropies in the gradient: factor (groups, 1). The
    /// results stay without it.
    pub fn scale(&mut self, factor: &Tensor) {
        if let Some((device, engine)) = self.device.as_mut().zip(factor.engine()) {
            return cuda::loss::scale(engine, device, factor.array());
        }
        for (group, f) in self.groups.iter().zip(factor.to_f64()) {
            for row in group.clone() {
                self.scaled[row] = match self.rows[row] {
                    RowLoss::CrossEntropy { target, weight } => {
                        RowLoss::CrossEntropy { target, weight: weight * f }
                    }
                    kl @ RowLoss::Kl { .. } => kl,
                };
            }
        }
    }

    /// The rows of a group: the loss of each, and its last result.
    pub fn of(&self, group: usize) -> impl Iterator<Item = (RowLoss, RowResult)> {
        let rows = self.groups[group].clone();
        self.rows[rows.clone()].iter().copied().zip(self.results[rows].iter().copied())
    }

    /// Sets the results of all rows.
    pub fn set_results(&mut self, results: Vec<RowResult>) {
        assert_eq!(results.len(), self.rows.len(), "loss: a row without a result");
        if let Some(device) = &mut self.device {
            or_unwind(device.set_results(&results));
        }
        self.results = results;
    }

    /// Copies the results from the device to the host.
    pub fn read(&mut self) {
        if let Some(device) = &self.device {
            self.results = device.results();
        }
    }

    /// The same on the device.
    pub fn on_device(&self) -> &cuda::loss::DeviceLossRows {
        self.device.as_ref().expect("logits on a device have losses there")
    }
}

/// Turns z, the logits of some of the rows, into weight·dz in place, and sets their results.
/// `reference` (rows of any number, V) has ln p⁰. Where logits have a cap c, it is the gradient for
/// what they were before it.
pub fn gradient(
    z: &mut Tensor,
    losses: &mut LossRows,
    rows: Range<usize>,
    reference: &Tensor,
    cap: Option<f64>,
) {
    let [r, v] = z.dims();
    assert!(r == rows.len() && rows.end <= losses.rows.len(), "loss: a row of logits without one");
    on!(z.compute(),
        host T => {
            let scaled = &losses.scaled[rows.clone()];
            let results = cpu::loss::gradient::<T>(z.get_mut(), v, scaled, reference.get(), cap);
            losses.results[rows].copy_from_slice(&results);
        },
        device e => {
            let losses = losses.device.as_mut().expect("logits on a device have losses there");
            cuda::loss::gradient(e, z.array_mut(), v, losses, rows, reference.array(), cap);
        },
    )
}
