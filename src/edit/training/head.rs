//! The loss of rows of the stream behind the last layer, and its gradient there.

use crate::model::Model;
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::loss::{self, LossRows, RowLoss};
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::ops::sample;
use crate::tensor::Tensor;
use crate::train::head::{LOGIT_ROWS, TrainingHead};

/// dx (N, D) of the sum of all losses, and those: row i of x (N, D) has the i-th, and rows beyond
/// have none. The last is repeated, without weight, so that no row's numbers depend on how many
/// there are. Unwinds where the device is out of memory.
pub fn gradient(model: &Model, x: &Tensor, mut of: Vec<RowLoss>) -> (Tensor, LossRows) {
    let compute = &model.compute;
    let chosen: Vec<usize> = (0..of.len()).collect();
    let last = chosen.len() % LOGIT_ROWS;
    if last > 0 {
        let more = BATCH_INVARIANT_ROWS.saturating_sub(last);
        of.resize(of.len() + more, RowLoss::CrossEntropy { target: 0, weight: 0.0 });
    }
    let all = 0..of.len();
    let mut losses = LossRows::new(compute, vec![all], of);
    let mut dx = Tensor::zeros(compute, x.shape());
    let none = Tensor::zeros(compute, &[0, model.arch.vocabulary]);
    let mut head = TrainingHead::new(model);
    head.run(model, x, &mut dx, (&chosen, BATCH_INVARIANT_ROWS), &mut |own, z| {
        let rows = own.start..own.start + z.shape()[0];
        loss::gradient(z, &mut losses, rows, &none, model.arch.caps.logits);
    });
    losses.read();
    (dx, losses)
}

/// The likeliest token behind each row of x (N, D); `None` where logits are not finite. Unwinds
/// where the device is out of memory.
pub fn says(model: &Model, x: &Tensor) -> Vec<Option<u32>> {
    let [n, d] = x.dims();
    let mut saved = Saved::new(&model.compute, 0, d);
    let mut z = Tensor::zeros(&model.compute, &[0, model.arch.vocabulary]);
    let mut said = Vec::with_capacity(n);
    for start in (0..n).step_by(LOGIT_ROWS) {
        let some: Vec<usize> = (start..n.min(start + LOGIT_ROWS)).collect();
        let mut read = Tensor::zeros(&model.compute, &[some.len(), d]);
        rows::gather(x, &Index::new(&model.compute, &some[..]), &mut read);
        model.head(&read, &mut saved, &mut z);
        let z = z.to_host();
        said.extend((0..some.len()).map(|row| sample::likeliest(&z.row_f64(row))));
    }
    said
}
