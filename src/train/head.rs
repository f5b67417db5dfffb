//! The model's head in training: logits at some rows of the stream, and the gradient back.
//!
//! ```text
//! z (rows, V) ← head(x[rows])        dz by whoever asked        dx[rows] += head's gradient of dz
//! ```
//!
//! Only so many rows of logits are held at a time, for V is large.

use std::ops::Range;

use crate::model::Model;
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// Rows of logits that are held at a time.
pub const LOGIT_ROWS: usize = 256;

/// The buffers of the head, which grow to the largest.
pub struct TrainingHead {
    read: Tensor,   // (rows, D)
    logits: Tensor, // (rows, V)
    saved: Saved,
}

impl TrainingHead {
    /// Of a model.
    pub fn new(model: &Model) -> TrainingHead {
        let wide = |width| Tensor::zeros(&model.compute, &[0, width]);
        TrainingHead {
            read: wide(model.arch.width),
            logits: wide(model.arch.vocabulary),
            saved: Saved::new(&model.compute, 0, model.arch.width),
        }
    }

    /// Hands `each` the logits z of some of the rows, by their places in `chosen`, which it turns
    /// into the gradient for z before its cap; adds what that is for the stream x to dx. At least
    /// `least` rows are run, so z may be longer than the rows it is of; what `each` leaves in the
    /// rest counts for nothing. Unwinds where the device is out of memory.
    pub fn run(
        &mut self,
        model: &Model,
        x: &Tensor,
        dx: &mut Tensor,
        (chosen, least): (&[usize], usize),
        each: &mut dyn FnMut(Range<usize>, &mut Tensor),
    ) {
        let compute = &model.compute;
        let mut done = 0;
        for rows in chosen.chunks(LOGIT_ROWS) {
            let own = rows.len();
            let mut filled = rows.to_vec();
            filled.resize(own.max(least), rows[0]);
            self.read.set_shape([filled.len(), model.arch.width]);
            rows::gather(x, &Index::new(compute, filled), &mut self.read);
            model.head(&self.read, &mut self.saved, &mut self.logits);
            each(done..done + own, &mut self.logits);
            let mut dread = model.head_backward(&self.logits, &self.saved);
            dread.set_rows(own);
            rows::scatter_add(dx, &Index::new(compute, rows), &dread);
            done += own;
        }
    }
}
