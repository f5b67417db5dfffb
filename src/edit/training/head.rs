//! The loss of rows of the stream behind the last layer, and its gradient there.

use crate::model::Model;
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::loss::{self, LossRows, RowLoss};
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::ops::sample;
use crate::tensor::Tensor;

/// Logits that are there at a time, in rows.
const LOGIT_ROWS: usize = 64;

/// dx (N, D) of the sum of all losses, and those: row i of x (N, D) has the i-th, and rows beyond
/// have none. The last is repeated, without weight, so that no row's numbers depend on how many
/// there are. Unwinds where the device is out of memory.
pub fn gradient(model: &Model, x: &Tensor, of: Vec<RowLoss>) -> (Tensor, LossRows) {
    let compute = &model.compute;
    let [n, d] = x.dims();
    let mut wanted: Vec<(usize, RowLoss)> = of.into_iter().enumerate().collect();
    let (last, _) = *wanted.last().expect("a row");
    let nothing = RowLoss::CrossEntropy { target: 0, weight: 0.0 };
    while (1..BATCH_INVARIANT_ROWS).contains(&(wanted.len() % LOGIT_ROWS)) {
        wanted.push((last, nothing));
    }
    let all = 0..wanted.len();
    let losses = wanted.iter().map(|(_, loss)| *loss).collect();
    let mut losses = LossRows::new(compute, vec![all.clone()], losses);
    let mut dx = Tensor::zeros(compute, &[n, d]);
    let none = Tensor::zeros(compute, &[0, model.arch.vocabulary]);
    let (mut z, mut saved) = (none.clone(), Saved::new(compute, 0, d));
    for start in all.clone().step_by(LOGIT_ROWS) {
        let some = start..all.end.min(start + LOGIT_ROWS);
        let at = wanted[some.clone()].iter().map(|(row, _)| *row);
        let at = Index::new(compute, at.collect::<Vec<usize>>());
        let mut read = Tensor::zeros(compute, &[some.len(), d]);
        rows::gather(x, &at, &mut read);
        model.head(&read, &mut saved, &mut z);
        loss::gradient(&mut z, &mut losses, some, &none, model.arch.caps.logits);
        rows::scatter_add(&mut dx, &at, &model.head_backward(&z, &saved));
    }
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
