//! A pass over texts with their losses, and back to where matrices are trained.
//!
//! ```text
//! target     −(1/T) Σ_t ln p(y_t | prompt, y_<t)
//! smoothed   −(1/T) Σ_t Σ_w q_t(w) ln p(w | prompt, y_<t)    q_t(y_t) = 1 − ε, ε/(V − 1) elsewhere
//! kept       (1/n) Σ_t KL(p⁰_t ‖ p_t)  over all n tokens,  p⁰ as it was:   dz = (p − p⁰)/n
//! ```
//!
//! The second is KL(q ‖ p) and the entropy of q, so it is computed as the third is.
//!
//! KL here is from what was to what is, MEND's; the value search's (`ops/loss.rs`) is the other way
//! round. It is computed on the host.

use rayon::prelude::*;

use super::head::TrainingHead;
use crate::base::{Float, Result};
use crate::model::completion::Completion;
use crate::model::{Batch, Hook, KvCache, LanguageModel, Model, NoHook, Past, Position, Run};
use crate::ops::loss::{self, LossRows, RowLoss};
use crate::tensor::{Precision, Tensor};

/// A text and its loss.
#[derive(Clone, Copy)]
pub enum TextLoss<'a> {
    /// That of a completion's labels.
    Target(&'a Completion),
    /// The same, smoothed by ε.
    Smoothed(&'a Completion, f64),
    /// How far all its tokens are from ln p⁰ (n, V), which is on the host.
    Kept(&'a [u32], &'a Tensor),
}

/// The buffers of such passes.
pub struct LossPass {
    begin: Position,
    below: Run,
    above: Run,
    past: KvCache, // empty
    head: TrainingHead,
    dx: Tensor,   // (N, D)
    none: Tensor, // (0, V): of no KL
}

impl TextLoss<'_> {
    fn ids(&self) -> &[u32] {
        match self {
            TextLoss::Target(text) | TextLoss::Smoothed(text, _) => &text.read,
            TextLoss::Kept(ids, _) => ids,
        }
    }

    /// The first token whose logits count.
    fn first(&self) -> usize {
        match self {
            TextLoss::Target(text) | TextLoss::Smoothed(text, _) => text.prompt() - 1,
            TextLoss::Kept(..) => 0,
        }
    }
}

impl LossPass {
    /// Of a model, back to `begin`.
    pub fn new(model: &Model, begin: Position) -> LossPass {
        let end = Position::before(model.arch.layers);
        LossPass {
            begin,
            below: Run::new(model),
            above: Run::keeping(model, begin..end),
            past: KvCache::new(&model.arch, &model.compute),
            head: TrainingHead::new(model),
            dx: Tensor::zeros(&model.compute, &[0, model.arch.width]),
            none: Tensor::zeros(&model.compute, &[0, model.arch.vocabulary]),
        }
    }

    /// The loss of each text; `hook` sees the way forward from where the pass begins, and the way
    /// back of the sum of the losses, each times its weight.
    ///
    /// # Errors
    ///
    /// A device that fails.
    pub fn run(
        &mut self,
        model: &Model,
        texts: &[(TextLoss, f64)],
        hook: &mut dyn Hook,
    ) -> Result<Vec<f64>> {
        let compute = model.compute.clone();
        compute.run(|| {
            let batch = Batch::whole(texts.iter().map(|(text, _)| text.ids()));
            let mut x = model.embed(&batch);
            let (bottom, end) = (Position::before(0), Position::before(model.arch.layers));
            let below = &mut self.below;
            model.forward(&batch, bottom..self.begin, Past::None, &mut x, below, &mut NoHook);
            let above = self.begin..end;
            model.forward(&batch, above.clone(), Past::None, &mut x, &mut self.above, hook);
            self.dx.set_shape([batch.len(), model.arch.width]);
            self.dx.clear();
            let mut losses = Vec::with_capacity(texts.len());
            for ((text, weight), seq) in texts.iter().zip(&batch.seqs) {
                let rows: Vec<usize> = (seq.rows.start + text.first()..seq.rows.end).collect();
                losses.push(self.head(model, &x, text, &rows, *weight));
            }
            if !hook.sites().is_empty() {
                let (past, dx, run) = (&self.past, &mut self.dx, &mut self.above);
                model.backward(&batch, above, past, dx, run, hook);
            }
            Ok(losses)
        })
    }

    /// The loss of one text at its rows of the stream; dx += its gradient.
    fn head(
        &mut self,
        model: &Model,
        x: &Tensor,
        text: &TextLoss,
        rows: &[usize],
        weight: f64,
    ) -> f64 {
        let (compute, cap) = (&model.compute, model.arch.caps.logits);
        let weight = weight / rows.len() as f64;
        let LossPass { head, dx, none, .. } = self;
        let mut sum = 0.0;
        head.run(model, x, dx, (rows, 0), &mut |own, z| match text {
            TextLoss::Target(text) => {
                let row = |&target: &u32| RowLoss::CrossEntropy { target, weight };
                let losses = text.labels[own.clone()].iter().map(row).collect();
                let all = 0..own.len();
                let mut of_rows = LossRows::new(compute, vec![all.clone()], losses);
                loss::gradient(z, &mut of_rows, all, none, cap);
                of_rows.read();
                sum += of_rows.of(0).map(|(_, result)| result.loss).sum::<f64>();
            }
            TextLoss::Smoothed(text, eps) => {
                let (log_q, entropy) = smoothed(&text.labels[own.clone()], *eps, z);
                sum += kept(z, &log_q, 0, weight, cap) + own.len() as f64 * entropy;
            }
            TextLoss::Kept(_, log_p) => sum += kept(z, log_p, own.start, weight, cap),
        });
        sum / rows.len() as f64
    }
}

/// ln p (n, V) of every token of a text, on the host.
///
/// # Errors
///
/// A device that fails.
pub fn log_p(model: &Model, ids: &[u32]) -> Result<Tensor> {
    let all: Vec<usize> = (0..ids.len()).collect();
    let batch = Batch::whole([ids]);
    let run = || Ok(model.run(&batch, &mut Past::None, &all, &mut NoHook)?.into_host());
    let z = model.compute.run(run)?;
    let mut log_p = z.like(z.shape());
    loss::log_softmax(&z, &all, &mut log_p);
    Ok(log_p)
}

/// ln q (n, V) of labels smoothed by ε > 0, and the entropy of one of them.
fn smoothed(labels: &[u32], eps: f64, z: &Tensor) -> (Tensor, f64) {
    let [_, v] = z.dims();
    let others = (eps / (v as f64 - 1.0)).ln();
    let mut log_q = vec![others; labels.len() * v];
    for (row, &label) in log_q.chunks_mut(v).zip(labels) {
        row[label as usize] = (1.0 - eps).ln();
    }
    let entropy = -(1.0 - eps) * (1.0 - eps).ln() - eps * others;
    (Tensor::of(z.precision(), &[labels.len(), v], &log_q), entropy)
}

/// Turns logits z (n, V) into weight·(p − p⁰), p⁰ from row `first` of ln p⁰ on; returns Σ KL.
fn kept(z: &mut Tensor, log_p: &Tensor, first: usize, weight: f64, cap: Option<f64>) -> f64 {
    let compute = z.compute();
    let mut here = z.to_host().into_owned();
    let sum = match here.precision() {
        Precision::F32 => kept_rows::<f32>(&mut here, log_p, first, weight, cap),
        Precision::F64 => kept_rows::<f64>(&mut here, log_p, first, weight, cap),
    };
    *z = here.on(&compute).into_owned();
    sum
}

fn kept_rows<T: Float>(
    z: &mut Tensor,
    log_p: &Tensor,
    first: usize,
    weight: f64,
    cap: Option<f64>,
) -> f64 {
    let [_, v] = z.dims();
    let (weight, one, inverse) = (T::of(weight), T::of(1.0), T::of(cap.map_or(0.0, |c| 1.0 / c)));
    let before = &log_p.get::<T>()[first * v..];
    let rows = z.get_mut::<T>().par_chunks_mut(v).zip(before.par_chunks(v));
    let kl = rows.map(|(z, before)| {
        let top = z.iter().fold(z[0], |top, &z| top.max(z));
        let log_sum = top + z.iter().map(|&z| (z - top).exp()).sum::<T>().ln();
        let mut kl = 0.0;
        for (z, &before) in z.iter_mut().zip(before) {
            let now = *z - log_sum;
            kl += (before.exp() * (before - now)).f64();
            let slope = one - (*z * inverse) * (*z * inverse);
            *z = weight * (now.exp() - before.exp()) * slope;
        }
        kl
    });
    kl.collect::<Vec<f64>>().into_iter().sum()
}
