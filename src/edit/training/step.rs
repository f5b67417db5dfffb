//! A step of training: the gradient of a batch's loss for some matrices, and Adam's move.
//!
//! ```text
//! loss of a fact     −(1/T) Σ_t ln p(y_t | …)        at its T wanted tokens
//! loss of a batch    the mean over its facts
//! ```
//!
//! Nothing is padded. What lies below the lowest matrix is [`Below`]; whole texts are run above it,
//! the head at wanted tokens only, and backward from there down to that matrix. Passes have so
//! many rows ([`least_rows`]) that a text's numbers do not depend on the others, and sums over
//! texts are cut where the batch decides, so a step does not depend on how it is cut into passes.

use super::below::Below;
use super::passes::{TrainingPass, least_rows, passes};
use super::texts::TrainingText;
use crate::base::{Progress, Result};
use crate::model::gradients::MatrixGradients;
use crate::model::{Batch, Hook, KvCache, MatrixId, Model, Past, Position, Run, Span};
use crate::ops::adam::{self, AdamMoments, AdamRule};
use crate::ops::loss::{self, LossRows, RowLoss};
use crate::ops::rows::Index;
use crate::tensor::Tensor;
use crate::train::head::TrainingHead;

/// How Adam moves the matrices; names in config files in brackets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoveRule {
    /// Its rate (`lr`).
    pub lr: f64,
    /// Added to the gradient, as a multiple of the matrix (`weight_decay`).
    pub weight_decay: f64,
    /// How far an element may go from where it began (`norm_constraint`).
    pub bound: Option<f64>,
}

/// A model in training.
pub struct Trainer<'t> {
    /// The model, some of whose matrices are its own.
    pub model: Model,
    /// Which.
    pub ids: &'t [MatrixId],
    /// What Adam knows of each.
    pub moments: Vec<AdamMoments>,
    /// Whether a step was cut off, and only some of the matrices have moved.
    pub torn: bool,
    rule: MoveRule,
    start: Vec<Tensor>, // where each began, where they are bound
    texts: &'t [TrainingText],
    below: Below,
    most: usize, // tokens a pass
    gradients: MatrixGradients,
    past: KvCache, // empty
    buffers: StepBuffers,
}

/// The buffers of a step, which grow to the largest.
pub(super) struct StepBuffers {
    pub run: Run,
    pub x: Tensor,  // (N, D)
    pub dx: Tensor, // (N, D)
    head: TrainingHead,
    reference: Tensor, // (0, V): of no KL
}

impl<'t> Trainer<'t> {
    /// Of copies of some matrices of a model, on texts in passes of `most` tokens.
    pub fn new(
        model: &Model,
        ids: &'t [MatrixId],
        texts: &'t [TrainingText],
        rule: MoveRule,
        most: usize,
    ) -> Trainer<'t> {
        let compute = &model.compute;
        let exact = compute.narrow_size() == compute.precision().size();
        assert!(exact, "training: dW takes dy and x of one type");
        let model = model.with_own(ids);
        let gradients = MatrixGradients::new(&model, ids);
        let begin = gradients.begin(&model);
        Trainer {
            ids,
            moments: ids.iter().map(|&id| AdamMoments::new(model.own(id))).collect(),
            torn: false,
            rule,
            start: match rule.bound {
                Some(_) => ids.iter().map(|&id| model.own(id).clone()).collect(),
                None => Vec::new(),
            },
            texts,
            below: Below::new(&model, begin),
            most,
            gradients,
            past: KvCache::new(&model.arch, &model.compute),
            buffers: StepBuffers::new(&model, begin),
            model,
        }
    }

    /// Computes what lies below the matrices, and keeps it.
    ///
    /// # Errors
    ///
    /// As [`Below::keep`].
    pub fn keep_below(&mut self, progress: &dyn Progress) -> Result<()> {
        let lengths: Vec<usize> = self.texts.iter().map(|text| text.ids.len()).collect();
        let passes = passes(&lengths, self.most);
        self.below.keep(&self.model, self.texts, &passes, progress)
    }

    /// The loss of each text of a batch, and the gradient of their mean.
    ///
    /// # Errors
    ///
    /// A device that fails.
    pub fn gradient(&mut self, batch: &[usize]) -> Result<Vec<f64>> {
        let lengths: Vec<usize> = batch.iter().map(|&i| self.texts[i].ids.len()).collect();
        let passes = passes(&lengths, self.most);
        let least = least_rows(lengths.iter().sum());
        let compute = self.model.compute.clone();
        compute.run(|| {
            self.gradients.clear();
            let mut losses = Vec::with_capacity(batch.len());
            for pass in &passes {
                let own = &batch[pass.texts.clone()];
                losses.extend(self.pass(pass, own, least, batch.len()));
            }
            Ok(losses)
        })
    }

    /// Adds the gradient of a pass; returns the loss of each of its texts.
    fn pass(&mut self, pass: &TrainingPass, own: &[usize], least: usize, of: usize) -> Vec<f64> {
        let Trainer { model, texts, below, gradients, past, buffers, .. } = self;
        let compute = &model.compute;
        let (batch, cuts) = pass.batch(own.iter().map(|&i| &texts[i].ids[..]), least);
        gradients.set_cuts(Index::new(compute, cuts));
        let span = above(model, gradients.begin(model));
        below.stream(model, &batch, own, &mut buffers.x);
        model.forward(&batch, span, Past::None, &mut buffers.x, &mut buffers.run, gradients);
        buffers.dx.set_shape([batch.len(), model.arch.width]);
        buffers.dx.clear();
        let own: Vec<&TrainingText> = own.iter().map(|&i| &texts[i]).collect();
        let weight = |text: &&TrainingText| 1.0 / (text.wanted.len() * of) as f64;
        let weights: Vec<f64> = own.iter().map(weight).collect();
        let losses = buffers.head(model, &own, &weights, &batch, least);
        let StepBuffers { dx, run, .. } = buffers;
        let short = gradients.short_end(model);
        let end = short.map_or(span, |(end, _)| above(model, end));
        model.backward(&batch, end, past, dx, run, gradients);
        if let Some((_, site)) = short {
            gradients.backward(site, &batch, dx);
        }
        losses
    }

    /// Moves the matrices against the last gradient.
    ///
    /// # Errors
    ///
    /// A device that fails.
    pub fn step(&mut self) -> Result<()> {
        let MoveRule { lr, weight_decay, bound } = self.rule;
        let compute = self.model.compute.clone();
        self.torn = true;
        compute.run(|| {
            for (i, &id) in self.ids.iter().enumerate() {
                let bound = bound.map(|radius| (&self.start[i], radius));
                let rule = AdamRule { lr, weight_decay, bound };
                let w = self.model.own_mut(id);
                adam::step(&rule, &self.gradients.all()[i], &mut self.moments[i], w);
            }
            Ok(())
        })?;
        self.torn = false;
        Ok(())
    }

    /// The gradient of each matrix.
    pub fn gradients(&self) -> &[Tensor] {
        self.gradients.all()
    }
}

/// What passes of training run.
pub(super) fn above(model: &Model, begin: Position) -> Span {
    (begin..Position::before(model.arch.layers)).into()
}

impl StepBuffers {
    /// For passes that begin there.
    pub fn new(model: &Model, begin: Position) -> StepBuffers {
        let wide = |width| Tensor::zeros(&model.compute, &[0, width]);
        let arch = &model.arch;
        StepBuffers {
            run: Run::keeping(model, above(model, begin)),
            x: wide(arch.width),
            dx: wide(arch.width),
            head: TrainingHead::new(model),
            reference: wide(arch.vocabulary),
        }
    }

    /// The loss of each text of a batch, from the stream x after the last layer; dx += the gradient
    /// of −ln p of all wanted tokens, each times the weight of its text.
    pub fn head(
        &mut self,
        model: &Model,
        texts: &[&TrainingText],
        weights: &[f64],
        batch: &Batch,
        least: usize,
    ) -> Vec<f64> {
        let compute = &model.compute;
        let mut read = Vec::new();
        let mut rows = Vec::new();
        for ((text, &weight), seq) in texts.iter().zip(weights).zip(&batch.seqs) {
            for &(at, target) in &text.wanted {
                read.push(seq.rows.start + at);
                rows.push(RowLoss::CrossEntropy { target, weight });
            }
        }
        let mut losses = Vec::with_capacity(read.len());
        let (reference, cap) = (&self.reference, model.arch.caps.logits);
        self.head.run(model, &self.x, &mut self.dx, (&read, least), &mut |own, z| {
            let all = 0..z.shape()[0];
            let mut rows = rows[own.clone()].to_vec();
            rows.resize(all.len(), RowLoss::CrossEntropy { target: 0, weight: 0.0 });
            let mut of_rows = LossRows::new(compute, vec![all.clone()], rows);
            loss::gradient(z, &mut of_rows, all, reference, cap);
            of_rows.read();
            losses.extend(of_rows.of(0).take(own.len()).map(|(_, result)| result.loss));
        });
        let mut losses = losses.into_iter();
        let mean = |text: &&TrainingText| {
            let t = text.wanted.len();
            losses.by_ref().take(t).sum::<f64>() / t as f64
        };
        texts.iter().map(mean).collect()
    }
}
