//! Runs of a prompt whose subject is corrupted, in which some states are those of the clean run.
//!
//! ```text
//! x⁰ = embed(ids)                    the clean run
//! xʲ = x⁰ + εʲ on the subject's rows, j = 1 … n       the corrupted copies
//! restored(states)                   the copies again, with states of the clean run in their place
//! p                                  of a token after the prompt, the mean over copies
//! ```
//!
//! A state of layer l at token i changes only tokens from i on, and only what comes behind it. So
//! every pass begins at the first restored layer, from the stream that entered it, with the tokens
//! from the first restored one on; keys and values of those before are the corrupted run's. Many
//! restorations that begin at one layer are a pass. The public code runs every layer on all tokens
//! for each, and the clean copy too; the numbers here are the same to the bit as of whole passes,
//! and do not depend on which restorations share a pass.

use std::collections::HashMap;
use std::ops::Range;

use crate::base::{Error, Progress, Result, Stage};
use crate::model::Model;
use crate::model::batch::Batch;
use crate::model::cache::{KvCache, Past};
use crate::model::run::Run;
use crate::model::site::{At, Hook, Look, Site};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::ops::{loss, sample};
use crate::tensor::Tensor;

/// Tokens of a pass, unless one restoration has more.
const TOKENS: usize = 1024;
/// Rows of logits held at a time.
const LOGITS: usize = 128;

/// A kind of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TracedState {
    /// The residual stream behind a layer.
    Hidden,
    /// What an MLP gives.
    Mlp,
    /// What attention gives.
    Attention,
}

impl TracedState {
    /// All of them.
    pub const ALL: [TracedState; 3] =
        [TracedState::Hidden, TracedState::Mlp, TracedState::Attention];

    /// As a key in JSON and the name of a file.
    pub fn name(self) -> &'static str {
        match self {
            TracedState::Hidden => "hidden",
            TracedState::Mlp => "mlp",
            TracedState::Attention => "attention",
        }
    }

    fn at(self) -> At {
        match self {
            TracedState::Hidden => At::Stream,
            TracedState::Mlp => At::VALUE,
            TracedState::Attention => At::ATTENTION,
        }
    }
}

/// States that become the clean run's: of one kind, at some tokens, in some layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// Of which kind.
    pub state: TracedState,
    /// At which tokens.
    pub tokens: Range<usize>,
    /// In which layers.
    pub layers: Range<usize>,
}

impl Restoration {
    /// The first layer that runs. A stream that is restored behind a layer enters the next.
    fn begin(&self) -> usize {
        self.layers.start + usize::from(self.state == TracedState::Hidden)
    }
}

/// The clean run of a prompt and its corrupted copies.
pub struct PromptRuns<'a> {
    model: &'a Model,
    ids: &'a [u32],               // (T)
    copies: usize,                // n
    entries: Vec<Tensor>,         // x ((1 + n)·T, D) before each layer, and behind the last
    clean: HashMap<Site, Tensor>, // (T, D), what the clean run gave at a site
    cache: KvCache,               // of all runs, the clean one first
    /// What the clean run says next.
    pub answer: u32,
    /// Its probability of that.
    pub p_high: f64,
    /// That of the corrupted copies, the mean.
    pub p_low: f64,
}

impl<'a> PromptRuns<'a> {
    /// Runs a prompt, and copies of it with `noise` (n, tokens, D) on the embeddings of some of its
    /// tokens.
    ///
    /// # Errors
    ///
    /// Logits that are not finite; a device that is out of memory.
    pub fn new(
        model: &'a Model,
        ids: &'a [u32],
        tokens: Range<usize>,
        noise: &[f64],
    ) -> Result<PromptRuns<'a>> {
        let [t, d] = [ids.len(), model.arch.width];
        let copies = noise.len() / (tokens.len() * d);
        model.compute.run(|| {
            let mut batch = Batch::whole((0..1 + copies).map(|_| ids));
            let real = batch.len();
            batch.fill(BATCH_INVARIANT_ROWS);
            let mut x = model.embed(&batch);
            let corrupted = (1..=copies).flat_map(|j| tokens.clone().map(move |i| j * t + i));
            let corrupted = Index::new(&model.compute, corrupted.collect::<Vec<_>>());
            let noise = Tensor::of(&model.compute, &[corrupted.len(), d], noise);
            rows::scatter_add(&mut x, &corrupted, &noise);

            let (mut entries, mut clean) = (vec![first_rows(&x, real)], HashMap::new());
            let mut look = Look {
                sites: sites(model),
                look: |site: Site, shown: &mut Tensor| {
                    if site.at == At::Stream {
                        entries.push(first_rows(shown, real));
                    }
                    clean.insert(site, first_rows(shown, t));
                },
            };
            let mut cache = KvCache::new(&model.arch, &model.compute);
            let past = Past::Grow(&mut cache);
            let mut run = Run::new(model);
            model.forward(&batch, 0..model.arch.layers, past, &mut x, &mut run, &mut look);

            let last: Vec<usize> = (0..=copies).map(|j| (j + 1) * t - 1).collect();
            let said = sample::likeliest(&logits(model, &x, &last).row_f64(0));
            let answer = said.ok_or_else(|| {
                let what = "the logits after the prompt are not finite";
                Error::numeric(what, "check the checkpoint for NaN weights")
            })?;
            let p = probabilities(model, &x, &last, answer);
            let p_low = mean(&p[1..]);
            Ok(PromptRuns {
                model,
                ids,
                copies,
                entries,
                clean,
                cache,
                answer,
                p_high: p[0],
                p_low,
            })
        })
    }

    /// The probability of the answer under each restoration, the mean over copies.
    ///
    /// # Errors
    ///
    /// A cancelled run; a device that is out of memory.
    pub fn restored(&self, all: &[Restoration], progress: &dyn Progress) -> Result<Vec<f64>> {
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|&r| all[r].begin());
        let tokens = |r: usize| self.copies * (self.ids.len() - all[r].tokens.start);
        let (mut p, mut done) = (vec![0.0; all.len()], 0);
        while done < all.len() {
            progress.at(Stage::Restoration, done as u64, all.len() as u64);
            if progress.cancelled() {
                return Err(Error::Interrupted { kept: "nothing was written".into() });
            }
            let (mut pass, mut size) = (Vec::new(), 0);
            for &r in &order[done..] {
                size += tokens(r);
                let fits = size <= TOKENS && all[r].begin() == all[order[done]].begin();
                if !pass.is_empty() && !fits {
                    break;
                }
                pass.push(r);
            }
            let restorations: Vec<&Restoration> = pass.iter().map(|&r| &all[r]).collect();
            let found = self.model.compute.run(|| Ok(self.pass(&restorations)))?;
            pass.iter().zip(found).for_each(|(&r, found)| p[r] = found);
            done += pass.len();
        }
        Ok(p)
    }

    /// Some restorations that begin at one layer.
    fn pass(&self, all: &[&Restoration]) -> Vec<f64> {
        let (model, t) = (self.model, self.ids.len());
        let begin = all[0].begin();
        let mut batch = Batch::default();
        let mut stream = Vec::new(); // where each row comes from
        let mut last = Vec::new();
        let mut restored: HashMap<Site, Vec<(usize, usize)>> = HashMap::new(); // row, token
        for Restoration { state, tokens, layers } in all {
            let is_entry = |i: usize| *state == TracedState::Hidden && tokens.contains(&i);
            for j in 1..=self.copies {
                let past = j * t..j * t + tokens.start;
                let rows = batch.push(&self.ids[tokens.start..], past);
                let from = |i: usize| if is_entry(i) { i } else { j * t + i };
                stream.extend((tokens.start..t).map(from));
                last.push(rows.end - 1);
                for layer in begin..layers.end {
                    let at = Site { layer, at: state.at() };
                    let pairs = tokens.clone().map(|i| (rows.start + i - tokens.start, i));
                    restored.entry(at).or_default().extend(pairs);
                }
            }
        }
        batch.fill(BATCH_INVARIANT_ROWS);
        stream.resize(batch.len(), 0);
        let stream = Index::new(&model.compute, stream);
        let mut x = Tensor::zeros(&model.compute, &[batch.len(), model.arch.width]);
        rows::gather(&self.entries[begin], &stream, &mut x);
        let mut hook = Restore::new(self, batch.len(), restored);
        let (past, mut run) = (Past::Read(&self.cache), Run::new(model));
        model.forward(&batch, begin..model.arch.layers, past, &mut x, &mut run, &mut hook);
        let p = probabilities(model, &x, &last, self.answer);
        p.chunks(self.copies).map(mean).collect()
    }
}

/// Puts states of the clean run in the place of those that a pass computed.
struct Restore<'a> {
    sites: Vec<Site>,
    clean: &'a HashMap<Site, Tensor>,
    sources: Vec<Index>, // of each row at a site: itself, or N + a token of the clean run
}

impl<'a> Restore<'a> {
    fn new(
        runs: &'a PromptRuns,
        n: usize,
        restored: HashMap<Site, Vec<(usize, usize)>>,
    ) -> Restore<'a> {
        let source = |pairs: &Vec<(usize, usize)>| {
            let mut source: Vec<usize> = (0..n).collect();
            pairs.iter().for_each(|&(row, token)| source[row] = n + token);
            Index::new(&runs.model.compute, source)
        };
        let sources = restored.values().map(source).collect();
        Restore { sites: restored.into_keys().collect(), clean: &runs.clean, sources }
    }
}

impl Hook for Restore<'_> {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        let i = self.sites.iter().position(|own| *own == site).expect("a site of the hook");
        let mut both = shown.clone();
        both.push_rows(&self.clean[&site]);
        rows::gather(&both, &self.sources[i], shown);
    }
}

/// Where the clean run is kept.
fn sites(model: &Model) -> Vec<Site> {
    let of = |layer| TracedState::ALL.map(|state| Site { layer, at: state.at() });
    (0..model.arch.layers).flat_map(of).collect()
}

fn first_rows(x: &Tensor, rows: usize) -> Tensor {
    let [_, d] = x.dims();
    let mut first = x.like(&[rows, d]);
    rows::put(x, 0..rows, &mut first, 0);
    first
}

/// Logits of some rows of the stream behind the last layer, and of more where they are few: so
/// many that a row's do not depend on the others.
fn logits(model: &Model, x: &Tensor, chosen: &[usize]) -> Tensor {
    let mut chosen = chosen.to_vec();
    chosen.resize(chosen.len().max(BATCH_INVARIANT_ROWS), chosen[0]);
    let d = model.arch.width;
    let mut picked = Tensor::zeros(&model.compute, &[chosen.len(), d]);
    rows::gather(x, &Index::new(&model.compute, chosen), &mut picked);
    let mut saved = Saved::new(&model.compute, 0, d);
    let mut z = Tensor::zeros(&model.compute, &[0, model.arch.vocabulary]);
    model.head(&picked, &mut saved, &mut z);
    z
}

/// The probability of a token after some rows.
fn probabilities(model: &Model, x: &Tensor, rows: &[usize], token: u32) -> Vec<f64> {
    let mut p = Vec::with_capacity(rows.len());
    for chosen in rows.chunks(LOGITS) {
        let z = logits(model, x, chosen);
        let all: Vec<usize> = (0..chosen.len()).collect();
        let mut log_p = Tensor::zeros(&model.compute, &[all.len(), model.arch.vocabulary]);
        loss::log_softmax(&z, &all, &mut log_p);
        let mut own = Tensor::zeros(&model.compute, &[all.len(), 1]);
        let all = Index::new(&model.compute, all);
        rows::gather_part(&log_p, &all, token as usize, &mut own);
        p.extend(own.to_f64().into_iter().map(f64::exp));
    }
    p
}

fn mean(p: &[f64]) -> f64 {
    p.iter().sum::<f64>() / p.len() as f64
}
