//! What lies below the lowest matrix that is trained. It never changes, so the stream that enters
//! there is computed once for all texts and kept, or, where there is no room for it, again in every
//! epoch. The bits are the same.

use std::ops::Range;

use super::passes::TrainingPass;
use super::texts::TrainingText;
use crate::base::{Error, Progress, Result, Stage};
use crate::model::{Batch, Model, NoHook, Past, Position, Run};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// The stream at which passes of training begin.
pub struct Below {
    begin: Position,
    kept: Option<Kept>,
    run: Run,
}

/// The streams of all texts, one after the other.
struct Kept {
    all: Tensor,             // (tokens, D)
    rows: Vec<Range<usize>>, // of each text
}

impl Below {
    /// Runs nothing: each pass will.
    pub fn new(model: &Model, begin: Position) -> Below {
        Below { begin, kept: None, run: Run::new(model) }
    }

    /// Runs all texts up to there, `passes` of them at a time, and keeps what comes out.
    ///
    /// # Errors
    ///
    /// Cancellation; a device out of memory.
    pub fn keep(
        &mut self,
        model: &Model,
        texts: &[TrainingText],
        passes: &[TrainingPass],
        progress: &dyn Progress,
    ) -> Result<()> {
        let tokens: usize = passes.iter().map(TrainingPass::tokens).sum();
        let (mut all, mut rows, mut at) = (None, Vec::new(), 0);
        for pass in passes {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was trained yet".to_owned() });
            }
            progress.at(Stage::Prompt, pass.texts.start as u64, texts.len() as u64);
            let texts = &texts[pass.texts.clone()];
            let ids = texts.iter().map(|text| &text.ids[..]);
            let (batch, _) = pass.batch(ids, BATCH_INVARIANT_ROWS);
            model.compute.run(|| {
                let mut x = Tensor::zeros(&model.compute, &[0, 0]);
                self.compute(model, &batch, &mut x);
                let zeros = || Tensor::zeros(&model.compute, &[tokens, model.arch.width]);
                rows::put(&x, 0..pass.tokens(), all.get_or_insert_with(zeros), at);
                Ok(())
            })?;
            for text in texts {
                rows.push(at..at + text.ids.len());
                at += text.ids.len();
            }
        }
        progress.at(Stage::Prompt, texts.len() as u64, texts.len() as u64);
        self.kept = all.map(|all| Kept { all, rows });
        Ok(())
    }

    /// x (N, D) ← the stream of a batch, whose first rows are those of `texts`, by their numbers;
    /// the rest only fills it. Unwinds where the device is out of memory.
    pub fn stream(&mut self, model: &Model, batch: &Batch, texts: &[usize], x: &mut Tensor) {
        let Some(kept) = &self.kept else {
            let mut filled = batch.clone();
            filled.fill(BATCH_INVARIANT_ROWS);
            self.compute(model, &filled, x);
            return x.set_rows(batch.len());
        };
        let rows: Vec<usize> = texts.iter().flat_map(|&i| kept.rows[i].clone()).collect();
        x.set_shape([rows.len(), model.arch.width]);
        rows::gather(&kept.all, &Index::new(&model.compute, rows), x);
        x.set_rows(batch.len());
    }

    /// The same, by running the batch.
    fn compute(&mut self, model: &Model, batch: &Batch, x: &mut Tensor) {
        *x = model.embed(batch);
        let below = Position::before(0)..self.begin;
        model.forward(batch, below, Past::None, x, &mut self.run, &mut NoHook);
    }
}
