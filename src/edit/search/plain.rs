//! The value search without anything clever: one fact, every token of every row through every
//! layer in every step. Slow, and the definition of what [`super::run`] finds.
//!
//! ```text
//! loss(δ) = f/(J T) Σ_j Σ_t −ln P[y_t | row j, push δ]      J rewriting rows, T target tokens
//!         + κ KL(P[· | KL row, push δ] ‖ P[· | KL row])
//!         + decay Σ_p ‖δ_p‖/‖t_p‖²                          P vectors, one but for PMET's
//!                                                           two and those of a window
//! ```
//!
//! All (D) in f64; the model in its own precision. Source: Meng et al. 2022, arXiv:2202.05262,
//! eq. 4; Adam of Kingma, Ba 2015, arXiv:1412.6980; the annealing of Li et al. 2024,
//! arXiv:2308.08742.

use super::settings::{Push, Search};
use super::value::{LossStep, TargetValue};
use crate::edit::prompts::FactRows;
use crate::linalg::vector::{dot, norm};
use crate::model::site::Look;
use crate::model::{Batch, Hook, KvCache, Model, Past, Position, Run, Site};
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// Searches v* for one fact; nothing where the loss is not finite.
pub fn find(model: &Model, rows: &FactRows, search: &Search) -> Option<TargetValue> {
    let mut pass = Pass::new(model, rows, search.push);
    let mut delta = vec![vec![0.0; model.arch.width]; search.push.vectors()];
    let mut m = delta.clone();
    let mut v = delta.clone();
    let start = pass.forward(&delta);
    let weight = 1.0 / (rows.rewriting.len() * rows.target.len()) as f64;
    let mut f = search.nll_factor;
    let mut trace: Vec<LossStep> = Vec::new();
    for n in 1.. {
        // The loss, and its gradient dz in the logits: of the KL row, then of each target token.
        let Seen { logp, slope, .. } = pass.forward(&delta);
        let p: Vec<Vec<f64>> =
            logp.iter().map(|row| row.iter().map(|l| l.exp()).collect()).collect();
        let gap = |i: usize| logp[0][i] - start.logp[0][i];
        let kl: f64 = p[0].iter().enumerate().map(|(i, p)| p * gap(i)).sum();
        let mut dz: Vec<f64> =
            p[0].iter().enumerate().map(|(i, p)| search.kl_factor * p * (gap(i) - kl)).collect();
        let mut loss = LossStep { kl: search.kl_factor * kl, ..LossStep::default() };
        for ((logp, p), &y) in logp.iter().zip(&p).skip(1).zip(rows.target.iter().cycle()) {
            let y = y as usize;
            loss.nll -= f * weight * logp[y];
            loss.missed += usize::from(logp.iter().any(|&other| other > logp[y]));
            let hot = |i: usize| if i == y { 1.0 } else { 0.0 };
            dz.extend(p.iter().enumerate().map(|(i, p)| f * weight * (p - hot(i))));
        }
        let decay = |(d, t): (&Vec<f64>, &Vec<f64>)| search.weight_decay * norm(d) / dot(t, t);
        loss.weight_decay = delta.iter().zip(&start.t0).map(decay).sum();
        trace.push(loss);

        // When it ends.
        let anneals = search.anneal_nll && loss.missed == 0;
        let known = search.ends_early(trace.iter().map(|loss| loss.missed));
        if !loss.total().is_finite() {
            return None;
        }
        let enough = loss.total() < search.loss_tolerance || (anneals && loss.kl <= 0.01);
        if enough || known || n == search.steps {
            break;
        }
        f = search.nll_factor * if anneals { 0.1 } else { 1.0 };

        // Adam's step, and the clamp.
        dz.iter_mut().zip(&slope).for_each(|(dz, slope)| *dz *= slope);
        for (part, g) in pass.backward(&dz).into_iter().enumerate() {
            let (delta, m, v) = (&mut delta[part], &mut m[part], &mut v[part]);
            let t0 = &start.t0[part];
            let length = norm(delta);
            for i in 0..delta.len() {
                let pull = if length > 0.0 { delta[i] / (length * dot(t0, t0)) } else { 0.0 };
                let g = g[i] + search.weight_decay * pull;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let mean = m[i] / (1.0 - 0.9f64.powi(n as i32));
                let square = v[i] / (1.0 - 0.999f64.powi(n as i32));
                delta[i] -= search.lr * mean / (square.sqrt() + 1e-8);
            }
            let shrink = search.clamp * norm(t0) / norm(delta);
            if shrink < 1.0 {
                delta.iter_mut().for_each(|x| *x *= shrink);
            }
        }
    }
    Some(TargetValue::new(model, &search.push, start.t0.concat(), delta.concat(), trace))
}

/// The model's passes over all rows of a fact.
struct Pass<'m> {
    model: &'m Model,
    push: Push,
    batch: Batch,
    bare: usize,   // the batch row of the bare prompt's lookup token
    lookup: Index, // batch rows of all lookup tokens
    read: Index,   // batch rows whose logits have a loss: the KL row, then each target token
    run: Run,
    saved: Saved,
}

/// What a forward pass shows.
struct Seen {
    t0: Vec<Vec<f64>>, // (P, D): the sites at the bare prompt's lookup token, before the push
    logp: Vec<Vec<f64>>, // (rows that are read, V)
    slope: Vec<f64>,   // likewise, row behind row: of the logits' cap, 1 where there is none
}

impl<'m> Pass<'m> {
    fn new(model: &'m Model, rows: &FactRows, push: Push) -> Self {
        let batch = Batch::whole(rows.by_kind().map(|row| &row.ids));
        let first = |sequence: usize| batch.seqs[sequence].rows.start;
        let lookup: Vec<usize> =
            rows.by_kind().enumerate().map(|(i, row)| first(i) + row.lookup).collect();
        let mut read = vec![lookup[0]];
        for sequence in &batch.seqs[1..] {
            let end = sequence.rows.end; // the last token predicts the last token of the target
            read.extend(end - rows.target.len()..end);
        }
        Pass {
            model,
            push,
            bare: lookup[1],
            lookup: Index::new(&model.compute, lookup),
            read: Index::new(&model.compute, read),
            run: Run::keeping(model, 0..push.layers()),
            saved: Saved::new(&model.compute, 0, model.arch.width),
            batch,
        }
    }

    /// With δ (P, D) added to the sites at all lookup tokens.
    fn forward(&mut self, delta: &[Vec<f64>]) -> Seen {
        let model = self.model;
        let [d, vocabulary] = [model.arch.width, model.arch.vocabulary];
        let sites = self.push.sites();
        let mut t0 = vec![Vec::new(); sites.len()];
        let mut x = model.embed(&self.batch);
        let look = |site, shown: &mut Tensor| {
            for part in (0..sites.len()).filter(|&part| sites[part] == site) {
                t0[part] = shown.row_f64(self.bare);
                let pushed = delta[part].repeat(self.lookup.len());
                let pushed = Tensor::of(&model.compute, &[self.lookup.len(), d], &pushed);
                rows::scatter_add(shown, &self.lookup, &pushed);
            }
        };
        let mut push = Look { sites: sites.clone(), look };
        let layers = 0..self.push.layers();
        model.forward(&self.batch, layers, Past::None, &mut x, &mut self.run, &mut push);
        let mut read = Tensor::zeros(&model.compute, &[self.read.len(), d]);
        rows::gather(&x, &self.read, &mut read);
        let mut z = Tensor::zeros(&model.compute, &[0, vocabulary]);
        model.head(&read, &mut self.saved, &mut z);
        let slope = |z: f64| model.arch.caps.logits.map_or(1.0, |c| 1.0 - (z / c).powi(2));
        let logp = (0..self.read.len()).map(|row| log_softmax(&z.row_f64(row))).collect();
        Seen { t0, logp, slope: z.to_f64().into_iter().map(slope).collect() }
    }

    /// The gradient (P, D) for δ of the last pass, from dz (rows that were read, V) before the cap.
    fn backward(&mut self, dz: &[f64]) -> Vec<Vec<f64>> {
        let model = self.model;
        let [d, vocabulary] = [model.arch.width, model.arch.vocabulary];
        let dz = Tensor::of(&model.compute, &[self.read.len(), vocabulary], dz);
        let mut dx = Tensor::zeros(&model.compute, &[self.batch.len(), d]);
        rows::scatter_add(&mut dx, &self.read, &model.head_backward(&dz, &self.saved));
        let nothing = KvCache::new(&model.arch, &model.compute);
        let sites = self.push.sites();
        let lowest = sites.iter().filter_map(|&site| model.place(site)).min().expect("its layer");
        let end = Position::before(self.push.layers());
        let sums = vec![vec![0.0; d]; sites.len()];
        let mut hook = GradientSums { sites, rows: self.lookup.to_vec(), sums };
        model.backward(&self.batch, lowest..end, &nothing, &mut dx, &mut self.run, &mut hook);
        hook.sums
    }
}

/// The sum of the gradient over some rows, at each site.
struct GradientSums {
    sites: Vec<Site>,
    rows: Vec<usize>,
    sums: Vec<Vec<f64>>,
}

impl Hook for GradientSums {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn backward(&mut self, site: Site, _: &Batch, gradient: &Tensor) {
        let part = self.sites.iter().position(|&own| own == site).expect("one of its sites");
        for &row in &self.rows {
            let sum = &mut self.sums[part];
            sum.iter_mut().zip(gradient.row_f64(row)).for_each(|(sum, x)| *sum += x);
        }
    }
}

fn log_softmax(z: &[f64]) -> Vec<f64> {
    let top = z.iter().fold(f64::NEG_INFINITY, |a, &z| a.max(z));
    let lse = top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
    z.iter().map(|z| z - lse).collect()
}
