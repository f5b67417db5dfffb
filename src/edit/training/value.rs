//! Training of a value: what one matrix gives at some tokens of a text.
//!
//! ```text
//! v      (D), what the matrix gives at the tokens replaced
//! loss   −(1/T) Σ_t ln p(y_t | prompt, y_<t)
//! dv   = Σ over the tokens replaced of the loss's gradient there
//! ```
//!
//! What lies below the matrix never changes: the stream that enters its branch is computed once.

use std::ops::Range;

use crate::base::{Error, Progress, Remedy, Result, Stage};
use crate::edit::facts::TokenizedFact;
use crate::memory::Replacement;
use crate::model::completion::Completion;
use crate::model::{
    At, Batch, Hook, KvCache, MatrixId, Model, NoHook, Past, Position, Run, Site, Span,
};
use crate::ops::adam::{self, AdamMoments, AdamRule};
use crate::ops::codebook::{Chosen, replace};
use crate::ops::loss::{self, LossRows, RowLoss};
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// How a value is trained.
#[derive(Clone, Copy, Debug)]
pub struct ValueTraining {
    /// What gives it.
    pub id: MatrixId,
    /// The tokens replaced.
    pub replacement: Replacement,
    /// Adam's rate.
    pub lr: f64,
}

/// Tokens of a text that a value is trained on.
#[derive(Clone, Copy, Debug)]
pub struct TextSize {
    /// All that are run.
    pub tokens: usize,
    /// Of the target.
    pub target: usize,
}

impl TextSize {
    /// Of a fact's.
    pub fn of(fact: &TokenizedFact) -> TextSize {
        let target = fact.rows.target.len();
        TextSize { tokens: fact.rows.keys[0].ids.len() + target - 1, target }
    }
}

/// Puts the value where it belongs, and adds up its gradient.
struct ValueHook {
    sites: [Site; 1],
    rows: Index,      // replaced
    zeros: Index,     // one a row: all have the one value
    chosen: Chosen,   // that value
    value: Tensor,    // (1, D)
    gradient: Tensor, // (1, D)
}

impl Hook for ValueHook {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, _: Site, _: &Batch, shown: &mut Tensor) {
        replace(shown, &self.rows, &self.zeros, &self.chosen, &self.value);
    }

    fn backward(&mut self, _: Site, _: &Batch, gradient: &Tensor) {
        let [_, d] = gradient.dims();
        let mut read = gradient.like(&[self.rows.len(), d]);
        rows::gather(gradient, &self.rows, &mut read);
        self.gradient.clear();
        rows::scatter_add(&mut self.gradient, &self.zeros, &read);
    }
}

impl ValueTraining {
    /// Bytes that it takes on a text, at most.
    ///
    /// ```text
    /// a token     the stream that enters the branch and a copy of it; what layers above keep for
    ///             backward; the buffers of a pass, and once those of one below
    /// a target    logits, and the rows that become them
    /// ```
    pub fn bytes(&self, model: &Model, text: TextSize) -> u64 {
        let (d, wide) = (model.arch.width, model.compute.precision().size());
        let begin = self.begin(model);
        let span = begin..Position::before(model.arch.layers);
        let pass = model.bytes_a_token(span, &model.compute);
        let below = model.bytes_a_token(Position::before(0)..begin, &model.compute);
        let saved = match model.offloads_weights() {
            true => (model.arch.layers - begin.layer) * wide * d + pass.largest,
            false => pass.saved,
        };
        let token = wide * d + saved + pass.forward + pass.backward;
        let token = token.max(below.largest + below.forward);
        let target = wide * (model.arch.vocabulary + 5 * d);
        (text.tokens * token + text.target * target) as u64
    }

    fn begin(&self, model: &Model) -> Position {
        let site = Site { layer: self.id.layer, at: At::Output(self.id.matrix) };
        model.place(site).expect("a matrix of the model")
    }

    /// Refuses facts whose prompts have no token to replace.
    ///
    /// # Errors
    ///
    /// The first of them.
    pub fn check(&self, facts: &[TokenizedFact]) -> Result<()> {
        let none = |fact: &&TokenizedFact| {
            let tokens = fact.rows.keys[0].ids.len();
            self.replacement.rows(0..tokens, tokens - 1).is_empty()
        };
        let Some(fact) = facts.iter().find(none) else { return Ok(()) };
        let id = &fact.request.id;
        let what =
            format!("record `{id}`: the prompt has one token, and none before it to replace");
        let last = Replacement::Last.name();
        let remedy = Remedy::from("replace the prompt's last token");
        Err(Error::refused(what, remedy.hyperparameter("replacement", Some(last))))
    }

    /// Takes so many steps from `value`, which becomes the last; returns the loss before each.
    ///
    /// # Errors
    ///
    /// Cancellation; a device that fails.
    ///
    /// # Panics
    ///
    /// Where the prompt has no token to replace.
    pub fn run(
        &self,
        model: &Model,
        text: &Completion,
        value: &mut [f32],
        steps: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<f64>> {
        let last = text.prompt() - 1;
        let replaced = self.replacement.rows(0..text.read.len(), last);
        assert!(!replaced.is_empty(), "a prompt without a token to replace");
        let mut trainer =
            model.compute.run(|| Ok(self.trainer(model, &text.read, replaced, value)))?;
        let wanted: Vec<(usize, u32)> =
            text.labels.iter().enumerate().map(|(t, &y)| (last + t, y)).collect();
        let mut losses = Vec::with_capacity(steps);
        for step in 0..steps {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            progress.at(Stage::Step, step as u64, steps as u64);
            losses.push(model.compute.run(|| Ok(trainer.step(model, &wanted, self.lr)))?);
        }
        let now = model.compute.run(|| Ok(trainer.hook.value.to_f64()))?;
        value.iter_mut().zip(now).for_each(|(value, now)| *value = now as f32);
        Ok(losses)
    }

    /// Unwinds where the device is out of memory.
    fn trainer(
        &self,
        model: &Model,
        ids: &[u32],
        replaced: Range<usize>,
        value: &[f32],
    ) -> ValueTrainer {
        let compute = &model.compute;
        let site = Site { layer: self.id.layer, at: At::Output(self.id.matrix) };
        let begin = self.begin(model);
        let batch = Batch::whole([ids]);
        let (mut below, mut run) = (model.embed(&batch), Run::new(model));
        let span = Position::before(0)..begin;
        model.forward(&batch, span, Past::None, &mut below, &mut run, &mut NoHook);
        let numbers: Vec<f64> = value.iter().map(|&x| x.into()).collect();
        let value = Tensor::of(compute, &[1, numbers.len()], &numbers);
        let span: Span = (begin..Position::before(model.arch.layers)).into();
        ValueTrainer {
            moments: AdamMoments::new(&value),
            hook: ValueHook {
                sites: [site],
                zeros: Index::new(compute, vec![0; replaced.len()]),
                rows: Index::new(compute, replaced.collect::<Vec<usize>>()),
                chosen: Chosen::of(compute, &[Some(0)]),
                gradient: value.like(value.shape()),
                value,
            },
            run: Run::keeping(model, span),
            past: KvCache::new(&model.arch, compute),
            batch,
            below,
            span,
        }
    }
}

/// A value in training.
struct ValueTrainer {
    hook: ValueHook,
    moments: AdamMoments,
    batch: Batch,
    below: Tensor, // (N, D): the stream that enters the branch
    span: Span,
    run: Run,
    past: KvCache, // empty
}

impl ValueTrainer {
    /// Moves the value against the gradient of the loss at the wanted tokens; returns the loss.
    fn step(&mut self, model: &Model, wanted: &[(usize, u32)], lr: f64) -> f64 {
        let compute = &model.compute;
        let mut x = self.below.clone();
        let (batch, run) = (&self.batch, &mut self.run);
        model.forward(batch, self.span, Past::None, &mut x, run, &mut self.hook);
        let at = Index::new(compute, wanted.iter().map(|(row, _)| *row).collect::<Vec<usize>>());
        let weight = 1.0 / wanted.len() as f64;
        let row = |&(_, target): &(usize, u32)| RowLoss::CrossEntropy { target, weight };
        let all = 0..wanted.len();
        let mut losses =
            LossRows::new(compute, vec![all.clone()], wanted.iter().map(row).collect());
        let wide = |rows, width| Tensor::zeros(compute, &[rows, width]);
        let (d, v) = (model.arch.width, model.arch.vocabulary);
        let (mut read, mut z) = (wide(wanted.len(), d), wide(0, v));
        let mut saved = Saved::new(compute, 0, d);
        rows::gather(&x, &at, &mut read);
        model.head(&read, &mut saved, &mut z);
        loss::gradient(&mut z, &mut losses, all, &wide(0, v), model.arch.caps.logits);
        let mut dx = wide(batch.len(), d);
        rows::scatter_add(&mut dx, &at, &model.head_backward(&z, &saved));
        model.backward(batch, self.span, &self.past, &mut dx, run, &mut self.hook);
        let ValueHook { gradient, value, .. } = &mut self.hook;
        adam::step(&AdamRule::plain(lr), gradient, &mut self.moments, value);
        losses.read();
        losses.of(0).map(|(_, result)| result.loss).sum::<f64>() * weight
    }
}
