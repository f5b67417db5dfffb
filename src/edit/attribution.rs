//! Which neurons of the MLPs a continuation rests on: attribution by integrated gradients.
//!
//! ```text
//! a^l (F)   what layer l's MLP holds at the token that predicts y: its key, or what comes before
//!           the activation
//! p(α)    = p[y] where α a^l is in the place of a^l, in that layer alone
//! attr_i  = a_i · (1/m) Σ_k ∂p/∂a_i at α_k    α_k = k/(m − 1), k = 0 … m − 1; 0 alone where m = 1
//! ```
//!
//! Of a target of several tokens: the mean over its tokens, each after those before it. Earlier
//! tokens do not see a later one, so their keys and values are computed once, and all copies
//! (layer, α, token) are sequences of one token that continue them: passes over L·m·T rows, forward
//! and backward. Completeness: Σ_i attr_i of a layer → p(1) − p(0) as m grows, but for O(1/m).
//!
//! Source: Dai et al. 2022, arXiv:2104.08696, equations 3 and 4; Sundararajan, Taly, Yan 2017,
//! arXiv:1703.01365, proposition 1. The paper's sum leaves out α = 0, and the public code's has
//! both ends, as here.

use std::collections::BTreeMap;
use std::ops::Range;

use super::search::memory::max_tokens;
use super::training::head;
use crate::base::{Error, Progress, Result};
use crate::model::completion::Completion;
use crate::model::site::Tap;
use crate::model::{
    At, Batch, Hook, KvCache, LanguageModel, Matrix, MatrixId, Model, NoHook, Past, Position, Run,
    Site, Span,
};
use crate::ops::codebook::{Chosen, replace};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::loss::RowLoss;
use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// Where a neuron's activation is read and scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeuronSite {
    /// What the down projection reads: what a neuron adds to the stream is its column times this.
    Key,
    /// What comes before the activation: of gated MLPs, the gate's.
    BeforeActivation,
}

impl NeuronSite {
    /// Both, with the names they have in settings.
    pub const NAMED: [(&'static str, NeuronSite); 2] =
        [("key", NeuronSite::Key), ("before_activation", NeuronSite::BeforeActivation)];

    fn of(self, model: &Model, layer: usize) -> Site {
        let gated = model.matrix_sizes(MatrixId::new(layer, Matrix::Gate)).is_some();
        let at = match self {
            NeuronSite::Key => At::KEY,
            NeuronSite::BeforeActivation if gated => At::Output(Matrix::Gate),
            NeuronSite::BeforeActivation => At::Output(Matrix::Up),
        };
        Site { layer, at }
    }
}

/// How neurons are attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegratedGradients {
    /// m.
    pub steps: usize,
    /// Where.
    pub site: NeuronSite,
}

/// A neuron, and what rests on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neuron {
    /// l.
    pub layer: usize,
    /// i: a column of the down projection.
    pub index: usize,
    /// attr_i.
    pub attribution: f64,
}

/// A layer, α's number and a token of the target: one row of a pass.
#[derive(Clone, Copy)]
struct Copied {
    layer: usize,
    step: usize,
    token: usize,
}

impl IntegratedGradients {
    fn alpha(&self, step: usize) -> f64 {
        if self.steps == 1 { 0.0 } else { step as f64 / (self.steps - 1) as f64 }
    }

    /// Bytes that a row of a pass takes.
    pub fn bytes_a_row(model: &Model) -> u64 {
        let layers = 0..model.arch.layers;
        let pass = model.bytes_a_token(layers.clone(), &model.compute);
        let wide = model.compute.precision().size();
        let saved = match model.offloads_weights() {
            true => layers.len() * wide * model.arch.width + pass.largest,
            false => pass.saved,
        };
        let own = wide * (2 * model.arch.inner + 2 * model.arch.width); // a, its gradient; x, dx
        (saved + pass.forward + pass.backward + own) as u64
    }

    /// attr (layers, F) of a continuation, in at most `room` bytes a pass.
    ///
    /// # Errors
    ///
    /// A text the model cannot run, numbers that are not finite, cancellation, a device out of
    /// memory.
    pub fn attribute(
        &self,
        model: &Model,
        text: &Completion,
        room: u64,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<f64>>> {
        model.arch.check(&text.read)?;
        let layers = model.arch.layers;
        let sites: Vec<Site> = (0..layers).map(|l| self.site.of(model, l)).collect();
        let tokens = text.labels.len();
        let begin = text.read.len() - tokens;
        let (cache, held) = model.compute.run(|| {
            let mut cache = KvCache::new(&model.arch, &model.compute);
            let rows: Vec<usize> = (begin..text.read.len()).collect();
            let mut tap = Tap::new(&model.compute, sites.clone(), rows);
            let batch = Batch::whole([&text.read]);
            model.run(&batch, &mut Past::Grow(&mut cache), &[], &mut tap)?;
            let held: Vec<Vec<Vec<f64>>> = (0..layers).map(|l| tap.vectors(l)).collect();
            Ok((cache, held))
        })?;
        let of_layer = |layer| {
            let step = move |step| (0..tokens).map(move |token| Copied { layer, step, token });
            (0..self.steps).flat_map(step)
        };
        let copies: Vec<Copied> = (0..layers).flat_map(of_layer).collect();
        let most = (room / Self::bytes_a_row(model)).clamp(1, max_tokens(model) as u64) as usize;
        let mut all: Vec<Vec<f64>> = held.iter().map(|a| vec![0.0; a[0].len()]).collect();
        let share = 1.0 / (self.steps * tokens) as f64;
        for some in copies.chunks(most) {
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".to_owned() });
            }
            let pass = CopyPass { by: self, model, text, sites: &sites, held: &held };
            let gradients = model.compute.run(|| Ok(pass.run(some, &cache)))?;
            for (copy, gradient) in some.iter().zip(gradients) {
                let own = &held[copy.layer][copy.token];
                let sum = all[copy.layer].iter_mut().zip(own).zip(gradient);
                sum.for_each(|((sum, a), g)| *sum += share * a * g);
            }
        }
        match all.iter().flatten().all(|x| x.is_finite()) {
            true => Ok(all),
            false => {
                let what = "what rests on a neuron is not finite";
                Err(Error::numeric(what, "check the checkpoint for NaN weights"))
            }
        }
    }
}

/// What all passes of a text share.
struct CopyPass<'a> {
    by: &'a IntegratedGradients,
    model: &'a Model,
    text: &'a Completion,
    sites: &'a [Site],
    held: &'a [Vec<Vec<f64>>], // a (layer, token, F)
}

/// The rows of a layer in a pass: what replaces their activation, and the gradient there.
struct ScaledRows {
    rows: Index,
    own: Index, // the value of each
    chosen: Chosen,
    values: Tensor,   // (n, F)
    gradient: Tensor, // (n, F)
}

struct ScaleHook {
    sites: Vec<Site>,
    scaled: Vec<ScaledRows>, // of each site
}

impl Hook for ScaleHook {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        let own = self.sites.iter().position(|own| *own == site).expect("was asked for");
        let ScaledRows { rows, own, chosen, values, .. } = &self.scaled[own];
        replace(shown, rows, own, chosen, values);
    }

    fn backward(&mut self, site: Site, _: &Batch, gradient: &Tensor) {
        let own = self.sites.iter().position(|own| *own == site).expect("was asked for");
        let own = &mut self.scaled[own];
        let [_, f] = gradient.dims();
        let mut read = gradient.like(&[own.rows.len(), f]);
        rows::gather(gradient, &own.rows, &mut read);
        own.gradient = read;
    }
}

impl CopyPass<'_> {
    /// ∂p/∂a (F) of each copy, which are of ascending layers. Unwinds where the device is out of
    /// memory.
    fn run(&self, copies: &[Copied], cache: &KvCache) -> Vec<Vec<f64>> {
        let CopyPass { model, text, .. } = *self;
        let before = text.read.len() - text.labels.len();
        let mut batch = Batch::default();
        for copy in copies {
            let at = before + copy.token;
            batch.push(&text.read[at..at + 1], 0..at);
        }
        batch.fill(BATCH_INVARIANT_ROWS);
        let mut hook = self.hook(copies);
        let begin = model.place(hook.sites[0]).expect("a matrix of the model");
        let below: Span = (Position::before(0)..begin).into();
        let above: Span = (begin..Position::before(model.arch.layers)).into();
        let (mut x, mut run) = (model.embed(&batch), Run::new(model));
        model.forward(&batch, below, Past::Read(cache), &mut x, &mut run, &mut NoHook);
        let mut run = Run::keeping(model, above);
        model.forward(&batch, above, Past::Read(cache), &mut x, &mut run, &mut hook);
        let target =
            |copy: &Copied| RowLoss::CrossEntropy { target: text.labels[copy.token], weight: 1.0 };
        let (mut dx, losses) = head::gradient(model, &x, copies.iter().map(target).collect());
        model.backward(&batch, above, cache, &mut dx, &mut run, &mut hook);
        // dp = −p d(−ln p).
        let mut ps = losses.of(0).map(|(_, row)| (-row.loss).exp());
        let mut found = Vec::with_capacity(copies.len());
        for scaled in &hook.scaled {
            let [_, f] = scaled.gradient.dims();
            for gradient in scaled.gradient.to_f64().chunks(f) {
                let p = ps.next().expect("a loss of each copy");
                found.push(gradient.iter().map(|g| -p * g).collect());
            }
        }
        found
    }

    /// The hook of a pass: copies of a layer are neighbours.
    fn hook(&self, copies: &[Copied]) -> ScaleHook {
        let compute = &self.model.compute;
        let mut layers = BTreeMap::<usize, Range<usize>>::new();
        for (row, copy) in copies.iter().enumerate() {
            layers.entry(copy.layer).or_insert(row..row).end = row + 1;
        }
        let scaled = |(&layer, rows): (&usize, &Range<usize>)| {
            let own = &copies[rows.clone()];
            let (n, f) = (own.len(), self.held[layer][0].len());
            let scaled = own.iter().flat_map(|copy| {
                let alpha = self.by.alpha(copy.step);
                self.held[layer][copy.token].iter().map(move |a| alpha * a)
            });
            let values = Tensor::of(compute, &[n, f], &scaled.collect::<Vec<f64>>());
            ScaledRows {
                rows: Index::new(compute, rows.clone().collect::<Vec<usize>>()),
                own: Index::new(compute, (0..n).collect::<Vec<usize>>()),
                chosen: Chosen::of(compute, &(0..n).map(Some).collect::<Vec<_>>()),
                gradient: values.like(&[0, f]),
                values,
            }
        };
        ScaleHook {
            sites: layers.keys().map(|&l| self.sites[l]).collect(),
            scaled: layers.iter().map(scaled).collect(),
        }
    }
}

/// The neurons on which more than a share of the most rests, layer by layer; none where nothing
/// rests on any.
pub fn above(attributions: &[Vec<f64>], share: f64) -> Vec<Neuron> {
    let most = attributions.iter().flatten().copied().fold(0.0, f64::max);
    let of_layer = |(layer, own): (usize, &Vec<f64>)| -> Vec<Neuron> {
        let enough = own.iter().enumerate().filter(|(_, x)| most > 0.0 && **x > share * most);
        enough.map(|(index, &attribution)| Neuron { layer, index, attribution }).collect()
    };
    attributions.iter().enumerate().flat_map(of_layer).collect()
}

/// The neurons that are among those of more than a share of several prompts, each with the mean of
/// what rests on it where it is; of one prompt, its own.
pub fn refined(prompts: &[Vec<Neuron>], share: f64) -> Vec<Neuron> {
    let mut seen = BTreeMap::<(usize, usize), Vec<f64>>::new();
    for neuron in prompts.iter().flatten() {
        seen.entry((neuron.layer, neuron.index)).or_default().push(neuron.attribution);
    }
    let often = seen.into_iter().filter(|(_, of)| of.len() as f64 > share * prompts.len() as f64);
    let neuron = |((layer, index), of): ((usize, usize), Vec<f64>)| {
        let attribution = of.iter().sum::<f64>() / of.len() as f64;
        Neuron { layer, index, attribution }
    };
    often.map(neuron).collect()
}
