//! The loss of the value search and its gradient for the vectors pushed into the stream.
//!
//! ```text
//! loss(δ) = mean_j −(1/T) Σ_t ln P[y_t | row j, push δ]      the new object
//!         + κ KL(P[· | row′, push δ] ‖ P[· | row′])          what the subject is
//! ```
//!
//! A push at (layer, token) changes only that layer's stream from that token on. So what precedes
//! the token is run once, into keys and values, what lies below the layer is run once, and
//! each step runs the few tokens from the subject's last one on, through the layers above. The
//! head runs only at rows whose loss is read. Source: Meng et al. 2022, arXiv:2202.05262, eq. 4.
//!
//! Facts come and go while others go on. From [`BATCH_INVARIANT_ROWS`] rows on, a fact's numbers do
//! not depend on the others. [`super::plain`] is the same without any of this.
//!
//! [`BATCH_INVARIANT_ROWS`]: crate::ops::linear::BATCH_INVARIANT_ROWS

use std::sync::Arc;

use super::entry::{StepEntry, gather_scaled, scatter_scaled};
use super::packing::{PackedFact, StepLayout, own_prefixes, retained};
use super::settings::Push;
use super::value::LossStep;
use crate::edit::prompts::FactRows;
use crate::model::prefix::PrefixCache;
use crate::model::site::Tap;
use crate::model::{At, Batch, Hook, KvCache, Model, NoHook, Past, Position, Run, Site};
use crate::ops::loss::{self, LossRows, RowLoss};
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::tensor::{Compute, Tensor};

/// Some facts, their unpushed streams, and the memory to push into them again and again.
pub struct Objective<'m> {
    model: &'m Model,
    stepping: Arc<Model>, // the same, as its steps compute
    push: Push,
    kl_factor: f64,
    prefixes: PrefixCache,
    least: usize, // rows a product has at least
    facts: Vec<PackedFact>,
    entry: StepEntry,
    past: KvCache, // of the layers above: shared tokens, then each fact's own
    step: StepInputs,
    reference: Tensor, // (facts, V): ln P at δ = 0
    run: Run,
    saved: Saved,
    logits: Tensor,
}

impl<'m> Objective<'m> {
    /// No fact yet. `prefixes` are the [`shared_prefixes`](super::packing::shared_prefixes) of all
    /// facts to come, run through the [layers](Push::layers) of a search. Products have `least`
    /// rows or more; below [`BATCH_INVARIANT_ROWS`] of them a fact's numbers depend on the others.
    ///
    /// [`BATCH_INVARIANT_ROWS`]: crate::ops::linear::BATCH_INVARIANT_ROWS
    pub fn new(
        model: &'m Model,
        push: Push,
        kl_factor: f64,
        prefixes: PrefixCache,
        least: usize,
    ) -> Self {
        assert!(matches!(push.site.at, At::VALUE | At::Stream), "a push goes into the stream");
        let normed = push.norm(model).is_some();
        assert!(!(push.attention && normed), "one vector, where a norm reads it");
        let stepping = Arc::new(model.for_search());
        let mut past = KvCache::new(&model.arch, &stepping.compute);
        past.append(push.layers_above(), &prefixes.cache, 0..prefixes.tokens());
        let layout = StepLayout::new(&[], prefixes.rows(), kl_factor, 0);
        Objective {
            kl_factor,
            least,
            facts: Vec::new(),
            entry: StepEntry::new(model, &push),
            past,
            step: StepInputs::new(&model.compute, layout),
            reference: Tensor::zeros(&model.compute, &[0, model.arch.vocabulary]),
            run: Run::keeping(&stepping, push.span(model)),
            saved: Saved::new(&model.compute, 0, model.arch.width),
            logits: Tensor::zeros(&stepping.compute, &[0, model.arch.vocabulary]),
            model,
            stepping,
            push,
            prefixes,
        }
    }

    /// Takes facts in, behind those that are there, and runs everything of them that does not
    /// depend on δ. Returns t₀ (facts, P·D): what the sites hold at each bare prompt's subject.
    pub fn admit(&mut self, facts: &[&FactRows]) -> Tensor {
        let model = self.model;
        let push = self.push;
        // Taking facts in has the memory of a step, which will need another size of it.
        self.run = Run::keeping(&self.stepping, push.span(model));
        let (own, tokens) = self.run_prefixes(facts);
        let shared = self.prefixes.rows();
        let packed: Vec<_> = facts.iter().map(|rows| PackedFact::new(rows, shared)).collect();
        let layout = StepLayout::new(&packed, shared, self.kl_factor, self.least);
        let t0 = self.run_below(&layout, &own, packed.iter().map(PackedFact::tokens).sum());
        self.facts.extend(packed);
        let shared = self.prefixes.tokens();
        self.past.append(push.layers_above(), &own, shared..shared + tokens);
        self.replan();
        let width = push.vectors() * model.arch.width;
        Tensor::of(&model.compute, &[facts.len(), width], &t0)
    }

    /// Runs what precedes each lookup token beyond what is shared. Returns the keys and values of
    /// both, and how many tokens were run.
    fn run_prefixes(&self, facts: &[&FactRows]) -> (KvCache, usize) {
        let model = self.model;
        let mut batch = own_prefixes(facts.iter().copied(), self.prefixes.rows());
        let tokens = batch.len();
        let mut cache = self.prefixes.cache.clone();
        if tokens > 0 {
            batch.fill(self.least);
            let layers = 0..self.push.layers();
            let mut x = model.embed(&batch);
            let mut run = Run::new(model);
            let grow = Past::Grow(&mut cache);
            model.forward(&batch, layers.clone(), grow, &mut x, &mut run, &mut NoHook);
            cache.keep(layers, std::slice::from_ref(&(0..self.prefixes.tokens() + tokens)));
        }
        (cache, tokens)
    }

    /// Runs what lies below a step; its first so many `tokens` are kept. Returns t₀ (facts, P·D).
    fn run_below(&mut self, layout: &StepLayout, past: &KvCache, tokens: usize) -> Vec<f64> {
        let model = self.model;
        let push = self.push;
        let batch = &layout.batch;
        let bare = layout.bare();
        // A value that a norm reads is kept of every token.
        let normed = push.norm(model).and_then(|_| model.place(push.site));
        let all: Vec<usize> = (0..batch.len()).collect();
        let rows = if normed.is_some() { &all } else { &bare };
        let mut tap = Tap::new(&model.compute, push.sites(), &rows[..]);
        let mut x = model.embed(batch);
        let mut run = Run::new(model);
        let begin = normed.unwrap_or(push.span(model).from);
        let below = Position::before(0)..begin;
        model.forward(batch, below, Past::Read(past), &mut x, &mut run, &mut tap);
        // What is shown behind the place where a step begins.
        let rest = begin..Position::before(push.top() + 1);
        if !rest.is_empty() {
            model.forward(batch, rest, Past::Read(past), &mut x.clone(), &mut run, &mut tap);
        }
        self.entry.append(&x, normed.map(|_| tap.tensor(0)), tokens);
        let mut t0: Vec<_> = (0..push.vectors()).map(|part| tap.vectors(part)).collect();
        if normed.is_some() {
            let kept =
                |part: &mut Vec<Vec<f64>>| bare.iter().map(|&row| part[row].clone()).collect();
            t0.iter_mut().for_each(|part| *part = kept(part));
        }
        let fact = |i: usize| t0.iter().flat_map(move |part| part[i].iter().copied());
        (0..bare.len()).flat_map(fact).collect()
    }

    /// Where the model runs.
    pub fn compute(&self) -> &Compute {
        &self.model.compute
    }

    /// Lets facts go: those at which `keep` is false.
    pub fn retain(&mut self, keep: &[bool]) {
        let compute = &self.model.compute;
        let left = retained(&self.facts, keep, self.prefixes.tokens());
        let mut reference = Tensor::zeros(compute, &[0, self.model.arch.vocabulary]);
        for &fact in &left.facts {
            reference.push_rows_of(&self.reference, fact..fact + 1);
        }
        self.entry.keep(compute, left.tokens);
        self.reference = reference;
        self.past.keep(self.push.layers_above(), &left.cache);
        let mut keep = keep.iter();
        self.facts.retain(|_| *keep.next().expect("one for every fact"));
        self.replan();
    }

    fn replan(&mut self) {
        let shared = self.prefixes.rows();
        let layout = StepLayout::new(&self.facts, shared, self.kl_factor, self.least);
        self.step = StepInputs::new(&self.model.compute, layout);
    }

    /// The gradients (facts, P·D) of all facts' losses at δ (facts, P·D), in which NLL has the
    /// factor f (facts, 1); the losses are those of [`losses`](Objective::losses). A fact's first
    /// step is at δ = 0 and sets the reference of its KL; what later steps enqueue is the same
    /// until facts come or go.
    pub fn gradient(&mut self, delta: &Tensor, f: &Tensor) -> Tensor {
        let stepping = self.stepping.clone();
        let model = &*stepping;
        let d = model.arch.width;
        let delta = delta.on(&model.compute);
        let zeros = |rows| Tensor::zeros(&model.compute, &[rows, d]);
        let StepInputs { layout, pushed, owner, losses, .. } = &mut self.step;
        losses.scale(f);
        let mut above = PushAbove::new(&self.push, pushed.clone());
        for part in self.push.first_vectors()..self.push.vectors() {
            let mut push = zeros(pushed.len());
            rows::gather_part(&delta, owner, part * d, &mut push);
            // A stream's gradient is wide, an output's in the type that products read.
            above.gradients.push(match self.push.site.at {
                At::Stream => zeros(pushed.len()),
                _ => Tensor::narrow(&model.compute, push.shape()),
            });
            above.pushes.push(push);
        }
        let mut x = self.entry.stream(layout.batch.len());
        let mut push = zeros(pushed.len());
        for part in (0..self.push.first_vectors()).rev() {
            rows::gather_part(&delta, owner, part * d, &mut push);
            match part {
                0 => self.entry.push(&mut x, pushed, &mut push),
                _ => scatter_scaled(&mut x, pushed, &mut push, self.push.rho(model, part)),
            }
            let (behind, past) = (self.push.behind(model, part), Past::Read(&self.past));
            model.forward(&layout.batch, behind, past, &mut x, &mut self.run, &mut above);
        }
        let mut dx = zeros(layout.batch.len());
        self.head_gradient(&x, &mut dx);
        drop(x); // its memory serves backward
        let StepInputs { layout, pushed, owner, .. } = &self.step;
        let mut gradient = Tensor::zeros(&model.compute, delta.shape());
        for part in 0..self.push.first_vectors() {
            let behind = self.push.behind(model, part);
            let (past, run) = (&self.past, &mut self.run);
            model.backward(&layout.batch, behind, past, &mut dx, run, &mut above);
            match part {
                0 => self.entry.gradient(&dx, pushed, &mut push),
                _ => gather_scaled(&dx, pushed, &mut push, self.push.rho(model, part)),
            }
            rows::scatter_add_part(&mut gradient, owner, part * d, &push);
        }
        for (part, own) in (self.push.first_vectors()..).zip(&above.gradients) {
            rows::scatter_add_part(&mut gradient, owner, part * d, own);
        }
        gradient
    }

    /// Losses from the stream x (N, D) after the last layer; dx += their gradient.
    fn head_gradient(&mut self, x: &Tensor, dx: &mut Tensor) {
        let model = self.stepping.clone();
        let compute = &model.compute;
        let [d, v] = [model.arch.width, model.arch.vocabulary];
        let StepInputs { layout, losses, pieces, .. } = &mut self.step;
        for (piece, index) in layout.pieces.iter().zip(pieces) {
            let mut picked = Tensor::zeros(compute, &[piece.rows.len(), d]);
            rows::gather(x, &index.read, &mut picked);
            model.head(&picked, &mut self.saved, &mut self.logits);
            let first_step = piece.kl.iter().filter(|kl| kl.1 >= self.reference.shape()[0]);
            let first_step: Vec<usize> = first_step.map(|kl| kl.0).collect();
            if !first_step.is_empty() {
                let mut logp = Tensor::zeros(compute, &[first_step.len(), v]);
                loss::log_softmax(&self.logits, &first_step, &mut logp);
                self.reference.push_rows(&logp);
            }
            let cap = model.arch.caps.logits;
            loss::gradient(&mut self.logits, losses, piece.rows.clone(), &self.reference, cap);
            let mut dpicked = model.head_backward(&self.logits, &self.saved);
            dpicked.set_rows(piece.own);
            rows::scatter_add(dx, &index.own, &dpicked);
        }
    }

    /// The losses of each fact's rows of logits, and what they were in the last step.
    pub fn losses(&self) -> &LossRows {
        &self.step.losses
    }

    /// The loss of each of a fact's rows of logits in the last step, without weights.
    pub fn row_losses(&mut self, fact: usize) -> Vec<f64> {
        self.step.losses.read();
        self.step.losses.of(fact).map(|(_, result)| result.loss).collect()
    }

    /// The losses of a fact in the last step, NLL without f; the decay is not the rows' and 0.
    pub fn loss(&mut self, fact: usize) -> LossStep {
        self.step.losses.read();
        let mut step = LossStep::default();
        for (row, result) in self.step.losses.of(fact) {
            match row {
                RowLoss::CrossEntropy { weight, .. } => {
                    step.nll += weight * result.loss;
                    step.missed += usize::from(!result.is_argmax);
                }
                RowLoss::Kl { weight, .. } => step.kl += weight * result.loss,
            }
        }
        step
    }
}

/// Pushes into the layers that a step runs, and the gradients for them.
struct PushAbove {
    sites: Vec<Site>,
    rows: Arc<Index>,
    pushes: Vec<Tensor>,    // (rows, D) for each site
    gradients: Vec<Tensor>, // likewise
}

impl PushAbove {
    fn new(push: &Push, rows: Arc<Index>) -> PushAbove {
        let sites = push.sites().split_off(push.first_vectors());
        PushAbove { sites, rows, pushes: Vec::new(), gradients: Vec::new() }
    }

    fn number(&self, site: Site) -> usize {
        self.sites.iter().position(|&own| own == site).expect("one of its sites")
    }
}

impl Hook for PushAbove {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn records(&self) -> bool {
        true
    }

    fn forward(&mut self, site: Site, _: &Batch, shown: &mut Tensor) {
        rows::scatter_add(shown, &self.rows, &self.pushes[self.number(site)]);
    }

    fn backward(&mut self, site: Site, _: &Batch, gradient: &Tensor) {
        let i = self.number(site);
        rows::gather(gradient, &self.rows, &mut self.gradients[i]);
    }
}

/// Where rows lie, as lists where the model runs.
struct StepInputs {
    layout: StepLayout,
    pushed: Arc<Index>,
    owner: Index,
    losses: LossRows,
    pieces: Vec<PieceIndex>,
}

/// Batch rows of a piece of logits.
struct PieceIndex {
    read: Index,
    own: Index, // without those that only fill the piece
}

impl StepInputs {
    fn new(compute: &Compute, mut layout: StepLayout) -> StepInputs {
        let index = |rows: &[usize]| Index::new(compute, rows);
        let groups = std::mem::take(&mut layout.groups);
        let losses = std::mem::take(&mut layout.losses);
        let piece = |piece: &super::packing::LogitPiece| PieceIndex {
            own: index(&piece.read[..piece.own]),
            read: index(&piece.read),
        };
        StepInputs {
            pieces: layout.pieces.iter().map(piece).collect(),
            pushed: Arc::new(index(&layout.pushed)),
            owner: index(&layout.owner),
            losses: LossRows::new(compute, groups, losses),
            layout,
        }
    }
}
