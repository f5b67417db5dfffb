//! What matrices read and the gradient for what they give, at the wanted tokens of texts.
//!
//! ```text
//! loss = Σ_i w_i Σ_t −ln p(y_t | …)      w a weight a text, t its wanted tokens
//! x_m (in, n)    what matrix m reads     n the wanted tokens of all texts, text by text
//! g_m (out, n)   ∂loss/∂(what m gives)
//! ```
//!
//! One pass forward and one back, from the lowest of the matrices up; no gradient of a matrix is
//! made. Nothing is padded, and passes have so many rows that a text's numbers do not depend on the
//! texts beside it.

use faer::Mat;

use super::below::Below;
use super::step::{StepBuffers, above};
use super::texts::TrainingText;
use crate::base::Result;
use crate::model::gradients::{MatrixGradients, input};
use crate::model::{At, Batch, Hook, KvCache, MatrixId, Model, Past, Site};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// Passes that capture, with their buffers.
pub struct Capture<'t> {
    ids: &'t [MatrixId],
    most: usize, // tokens a pass
    hook: RowCapture,
    below: Below,
    past: KvCache, // empty
    buffers: StepBuffers,
}

/// What a turn's passes saw.
#[derive(Default)]
pub struct Captured {
    /// x (in, n) of each matrix.
    pub x: Vec<Mat<f64>>,
    /// g (out, n) of each matrix.
    pub g: Vec<Mat<f64>>,
    /// The mean of −ln p over the wanted tokens of each text.
    pub losses: Vec<f64>,
}

impl<'t> Capture<'t> {
    /// Of some matrices of a model, in passes of `most` tokens.
    pub fn new(model: &Model, ids: &'t [MatrixId], most: usize) -> Capture<'t> {
        let begin = MatrixGradients::begin_of(model, ids);
        Capture {
            ids,
            most,
            hook: RowCapture::new(model, ids),
            below: Below::new(model, begin),
            past: KvCache::new(&model.arch, &model.compute),
            buffers: StepBuffers::new(model, begin),
        }
    }

    /// Runs texts, of which each has a weight in the loss.
    ///
    /// # Errors
    ///
    /// A device that fails.
    pub fn run(
        &mut self,
        model: &Model,
        texts: &[TrainingText],
        weights: &[f64],
    ) -> Result<Captured> {
        let mut all = Captured::default();
        let (mut x, mut g) = (Vec::new(), Vec::new());
        let mut from = 0;
        while from < texts.len() {
            let mut tokens = 0;
            let fits = texts[from..].iter().take_while(|text| {
                tokens += text.ids.len();
                tokens <= self.most
            });
            let to = from + fits.count().max(1);
            let (texts, weights) = (&texts[from..to], &weights[from..to]);
            let losses = model.compute.run(|| Ok(self.pass(model, texts, weights)))?;
            all.losses.extend(losses);
            let hook = &self.hook;
            let rows =
                model.compute.run(|| Ok((hook.rows(&hook.inputs), hook.rows(&hook.given))))?;
            x.push(rows.0);
            g.push(rows.1);
            from = to;
        }
        let place = |&id: &MatrixId| {
            let own = self.hook.sites.iter().position(|&site| site == input(id));
            own.expect("one of its sites")
        };
        let reads: Vec<usize> = self.ids.iter().map(place).collect();
        all.x = reads.iter().map(|&i| columns(x.iter().map(|pass| &pass[i]))).collect();
        all.g = (0..self.ids.len()).map(|i| columns(g.iter().map(|pass| &pass[i]))).collect();
        Ok(all)
    }

    /// One pass; the loss of each of its texts.
    fn pass(&mut self, model: &Model, texts: &[TrainingText], weights: &[f64]) -> Vec<f64> {
        let Capture { ids, hook, below, past, buffers, .. } = self;
        let mut batch = Batch::whole(texts.iter().map(|text| &text.ids[..]));
        let read = texts
            .iter()
            .zip(&batch.seqs)
            .flat_map(|(text, seq)| text.wanted.iter().map(move |&(at, _)| seq.rows.start + at));
        hook.begin(Index::new(&model.compute, read.collect::<Vec<usize>>()));
        batch.fill(BATCH_INVARIANT_ROWS);
        let span = above(model, MatrixGradients::begin_of(model, ids));
        below.stream(model, &batch, &[], &mut buffers.x);
        model.forward(&batch, span, Past::None, &mut buffers.x, &mut buffers.run, hook);
        buffers.dx.set_shape([batch.len(), model.arch.width]);
        buffers.dx.clear();
        let texts: Vec<&TrainingText> = texts.iter().collect();
        let losses = buffers.head(model, &texts, weights, &batch, BATCH_INVARIANT_ROWS);
        let StepBuffers { dx, run, .. } = buffers;
        let short = MatrixGradients::short_end_of(model, ids);
        let end = short.map_or(span, |(end, _)| above(model, end));
        model.backward(&batch, end, past, dx, run, hook);
        if let Some((_, site)) = short {
            hook.backward(site, &batch, dx);
        }
        losses
    }
}

/// Rows of all passes as the columns of one matrix.
fn columns<'a>(passes: impl Iterator<Item = &'a (usize, Vec<f64>)>) -> Mat<f64> {
    let passes: Vec<&(usize, Vec<f64>)> = passes.collect();
    let width = passes.first().map_or(0, |(width, _)| *width);
    let all: Vec<f64> = passes.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
    Mat::from_fn(width, all.len() / width.max(1), |i, j| all[j * width + i])
}

/// The hook that gathers rows.
struct RowCapture {
    sites: Vec<Site>, // what is read, then what each matrix gives
    inputs: Vec<Tensor>,
    given: Vec<Tensor>,
    at: Index,
}

impl RowCapture {
    fn new(model: &Model, ids: &[MatrixId]) -> RowCapture {
        let mut sites: Vec<Site> = Vec::new();
        let mut inputs = Vec::new();
        let empty = |width: usize| Tensor::narrow(&model.compute, &[0, width]);
        for &id in ids {
            if !sites.contains(&input(id)) {
                sites.push(input(id));
                inputs.push(empty(model.matrix(id).w.dims()[1]));
            }
        }
        sites.extend(ids.iter().map(|id| Site { layer: id.layer, at: At::Output(id.matrix) }));
        let given = ids.iter().map(|&id| empty(model.matrix(id).w.dims()[0])).collect();
        RowCapture { sites, inputs, given, at: Index::default() }
    }

    /// Gathers these rows of the next pass.
    fn begin(&mut self, at: Index) {
        let n = at.len();
        self.inputs.iter_mut().chain(&mut self.given).for_each(|rows| rows.set_rows(n));
        self.at = at;
    }

    /// The width and the rows of each, one after the other.
    fn rows(&self, all: &[Tensor]) -> Vec<(usize, Vec<f64>)> {
        all.iter().map(|rows| (rows.shape()[1], rows.to_f64())).collect()
    }
}

impl Hook for RowCapture {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        let own = self.sites[..self.inputs.len()].iter().position(|own| *own == site);
        if let Some(i) = own {
            rows::gather(shown, &self.at, &mut self.inputs[i]);
        }
    }

    fn backward(&mut self, site: Site, _: &Batch, gradient: &Tensor) {
        let own = self.sites[self.inputs.len()..].iter().position(|own| *own == site);
        if let Some(i) = own {
            rows::gather(gradient, &self.at, &mut self.given[i]);
        }
    }
}
