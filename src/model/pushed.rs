//! The loss of the value search and its gradient for the vectors pushed into the stream.
//!
//! ```text
//! loss(δ) = mean_j −(1/T) Σ_t ln P[y_t | row j, push δ]      say the new object
//!         + κ KL(P[· | row′, push δ] ‖ P[· | row′])          stay what it is
//! ```
//!
//! A push at (layer, token) changes only that layer's stream from that token on. So what precedes
//! the token is run once and kept as keys and values, what lies below the layer is run once, and
//! each step runs the few tokens from the subject's last one on, through the layers above. The
//! head runs only at rows whose loss is read. Source: Meng et al. 2022, arXiv:2202.05262, eq. 4.
//!
//! Facts come and go (a slot each) while the others go on. From [`BATCH_INVARIANT_ROWS`] rows on, a
//! fact's numbers do not depend on who else is there.

use std::ops::Range;
use std::sync::Arc;

use super::backward::Back;
use super::batch::Batch;
use super::cache::KvCache;
use super::decoder::{Past, Run};
use super::model::Model;
use super::shared::Shared;
use super::site::{At, Site, tap};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::loss::{self, Aim, Aims};
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::tensor::{Compute, Tensor};
use crate::text::{Row, Rows};

/// The rows of one fact's search.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// Rewriting rows, each ending in the target without its last token, the row that should
    /// stay, and the target.
    pub rows: &'a Rows,
    /// κ.
    pub kl_factor: f64,
}

impl<'a> Problem<'a> {
    /// The rows by kind: the one that should stay, then those of the contexts.
    pub fn kinds(rows: &'a Rows) -> Vec<&'a Row> {
        std::iter::once(&rows.kl).chain(&rows.rewriting).collect()
    }

    /// Tokens that a step runs.
    pub fn tokens(rows: &Rows) -> usize {
        Problem::suffixes(rows).map(|(_, ids)| ids.len()).sum()
    }

    /// Each row's tokens from the lookup token on; of the row that should stay that one alone.
    fn suffixes(rows: &'a Rows) -> impl Iterator<Item = (&'a Row, &'a [u32])> {
        Problem::kinds(rows).into_iter().enumerate().map(|(kind, row)| {
            let end = if kind == 0 { row.lookup + 1 } else { row.ids.len() };
            (row, &row.ids[row.lookup..end])
        })
    }
}

/// The two parts of a fact's loss, the second already times κ.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// Mean over rows of the mean over target tokens of −ln P.
    pub nll: f64,
    /// κ KL(now ‖ at δ = 0).
    pub kl: f64,
    /// How many of the target's tokens, over all rows, something else is likelier than.
    pub missed: usize,
}

/// Where a search pushes, and from where on its loss is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// A value or a stream.
    pub site: Site,
    /// Whether a second vector goes into the same layer's attention output (PMET).
    pub attention: bool,
    /// The layer after which the head reads the stream, not below the site's.
    pub loss_layer: usize,
}

impl Push {
    /// The layers a step runs.
    pub(super) fn above(&self) -> Range<usize> {
        self.site.layer + 1..self.loss_layer.max(self.site.layer) + 1
    }

    /// P, how many vectors δ holds, side by side.
    pub fn vectors(&self) -> usize {
        1 + usize::from(self.attention)
    }

    /// Whether a step runs the MLP of the site's layer too, since it reads what is pushed.
    fn through_mlp(&self, model: &Model) -> bool {
        self.attention && !model.arch.parallel
    }

    /// The layers whose activations a step keeps.
    pub(super) fn kept(&self, model: &Model) -> Range<usize> {
        self.above().start - usize::from(self.through_mlp(model))..self.above().end
    }

    /// How many layers a search runs, from the first.
    pub fn layers(&self) -> usize {
        self.above().end
    }
}

/// A fact in the batch.
struct Slot {
    suffixes: Vec<(Vec<u32>, usize, usize)>, // (ids, kind, own tokens before them)
    target: Vec<u32>,
    kl_factor: f64,
}

impl Slot {
    /// Tokens that a step runs.
    fn tokens(&self) -> usize {
        self.suffixes.iter().map(|(ids, ..)| ids.len()).sum()
    }
}

/// Some facts, their unpushed streams, and the memory to push into them again and again.
pub struct Pushed<'m> {
    model: &'m Model,
    stepping: Arc<Model>, // the same, as its steps compute
    push: Push,
    shared: &'m Shared,
    least: usize, // rows a product has at least
    slots: Vec<Slot>,
    entry: Tensor, // (tokens, D): the stream where a step begins, without δ, slot by slot
    past: KvCache, // of the layers above: shared tokens, then each slot's own
    plan: Plan,
    first: Tensor, // (slots, V): ln P at δ = 0
    run: Run,
    back: Back,
    saved: Saved,
    logits: Tensor,
}

/// Rows of logits held at a time.
pub(super) const READ: usize = 256;

impl<'m> Pushed<'m> {
    /// No fact yet. `shared` are the beginnings of [`Problem::kinds`], run through the layers up
    /// to the loss layer. A search `alone` may take a shorter way through its products, which
    /// rounds otherwise; others are steady.
    pub fn new(model: &'m Model, push: Push, shared: &'m Shared, alone: bool) -> Self {
        assert!(matches!(push.site.at, At::Value | At::Stream), "a push goes into the stream");
        let empty = |width| Tensor::zeros(&model.compute, &[0, width]);
        let stepping = Arc::new(model.for_search());
        let mut past = KvCache::new(&model.arch, &stepping.compute);
        past.append(push.above(), &shared.cache, 0..shared.tokens());
        Pushed {
            least: if alone { 0 } else { BATCH_INVARIANT_ROWS },
            slots: Vec::new(),
            entry: empty(model.arch.width),
            past,
            plan: Plan::of(&model.compute, &[], shared, 0),
            first: empty(model.arch.vocabulary),
            run: Run::keeping(&stepping, push.kept(model)),
            back: Back::new(&stepping),
            saved: Saved::new(&model.compute, 0, model.arch.width),
            logits: Tensor::zeros(&stepping.compute, &[0, model.arch.vocabulary]),
            model,
            stepping,
            push,
            shared,
        }
    }

    /// Takes facts in, behind those that are there, and runs everything of them that does not
    /// depend on δ. Returns t₀ (facts, P·D): what the sites hold at each bare prompt's subject.
    pub fn admit(&mut self, problems: &[Problem]) -> Tensor {
        let (model, push, l) = (self.model, self.push, self.push.site.layer);
        // Taking facts in has the memory of a step, which will need another size of it.
        self.run = Run::keeping(&self.stepping, push.kept(model));
        self.back = Back::new(&self.stepping);
        let (own, after, slots) = self.prefixes(problems);
        let mut bare = Vec::new();
        for (slot, rows) in slots.iter().zip(&after.slots) {
            assert!(slot.suffixes.len() > 1, "a fact without a rewriting row");
            bare.push(after.batch.seqs[rows.start + 1].rows.start);
        }
        let mut taps = vec![(push.site, bare.clone(), Vec::new())];
        if push.attention {
            taps.push((Site { layer: l, at: At::Attention }, bare, Vec::new()));
        }
        let mut hook = |at: Site, t: &mut Tensor| {
            for (site, chosen, out) in &mut taps {
                if at == *site {
                    *out = tap(t, chosen);
                }
            }
        };
        let (mut x, mut run) = (model.embed(&after.batch), Run::new(model));
        let read = || Past::Read(&own);
        model.forward(&after.batch, 0..l, read(), &mut x, &mut run, &mut |_, _| {});
        if push.through_mlp(model) {
            model.first_half(&after.batch, l, read(), &mut x, &mut run, &mut hook);
            let mut rest = x.clone();
            model.second_half(&after.batch, l, &mut rest, &mut run, &mut hook);
        } else {
            model.forward(&after.batch, l..l + 1, read(), &mut x, &mut run, &mut hook);
        }
        let values: Vec<Vec<f64>> =
            (0..slots.len()).map(|i| taps.iter().flat_map(|t| t.2[i].clone()).collect()).collect();
        self.entry.push_rows_of(&x, 0..slots.iter().map(Slot::tokens).sum());
        self.slots.extend(slots);
        let shared = self.shared.tokens();
        let tokens = own.layer(push.site.layer).0.shape()[0];
        self.past.append(push.above(), &own, shared..tokens);
        self.replan();
        let width = push.vectors() * model.arch.width;
        Tensor::of(&model.compute, &[values.len(), width], &values.concat())
    }

    /// Where the model runs.
    pub fn compute(&self) -> &Compute {
        &self.model.compute
    }

    /// Lets facts go: those at which `keep` is false.
    pub fn retain(&mut self, keep: &[bool]) {
        let shared = 0..self.shared.tokens();
        let mut past = Vec::from([shared]);
        let mut first = Tensor::zeros(&self.model.compute, &[0, self.model.arch.vocabulary]);
        let (mut at, mut token) = (self.shared.tokens(), 0);
        let (mut kept, mut tokens) = (Vec::new(), Vec::new());
        for (i, (slot, keep)) in std::mem::take(&mut self.slots).into_iter().zip(keep).enumerate() {
            let own: usize = slot.suffixes.iter().map(|(.., own)| own).sum();
            let after = token + slot.tokens();
            if *keep {
                past.push(at..at + own);
                tokens.extend(token..after);
                first.push_rows_of(&self.first, i..i + 1);
                kept.push(slot);
            }
            (at, token) = (at + own, after);
        }
        let mut entry = Tensor::zeros(&self.model.compute, &[tokens.len(), self.model.arch.width]);
        rows::gather(&self.entry, &Index::new(&self.model.compute, tokens), &mut entry);
        self.entry = entry;
        self.past.keep(self.push.above(), &past);
        (self.first, self.slots) = (first, kept);
        self.replan();
    }

    fn replan(&mut self) {
        self.plan = Plan::of(&self.model.compute, &self.slots, self.shared, self.least);
        self.back.fit(self.plan.batch.len());
    }

    /// The gradients (facts, P·D) of all facts' losses at δ (facts, P·D), in which NLL weighs
    /// `say` (facts, 1); the losses are the [`aims`](Pushed::aims)'. A fact's first step is at
    /// δ = 0 and fixes what should stay; what later steps enqueue is the same until facts come or
    /// go.
    pub fn step(&mut self, delta: &Tensor, say: &Tensor) -> Tensor {
        let (model, l) = (self.stepping.clone(), self.push.site.layer);
        let (model, d) = (&*model, self.model.arch.width);
        let delta = delta.on(&model.compute);
        let Plan { batch, pushed, owner, aims, .. } = &mut self.plan;
        aims.weigh(say);
        let through = self.push.through_mlp(model);
        let zeros = |rows| Tensor::zeros(&model.compute, &[rows, d]);
        let mut x = self.entry.clone();
        x.set_rows(batch.len());
        let mut push = zeros(pushed.len());
        for part in (0..self.push.vectors()).rev() {
            rows::gather_part(&delta, owner, part * d, &mut push);
            rows::scatter_add(&mut x, pushed, &push);
            if part == 1 && through {
                model.second_half(batch, l, &mut x, &mut self.run, &mut |_, _| {});
            }
        }
        let (above, past) = (self.push.above(), Past::Read(&self.past));
        model.forward(batch, above.clone(), past, &mut x, &mut self.run, &mut |_, _| {});
        let mut dx = zeros(batch.len());
        self.read(&x, &mut dx);
        drop(x); // its memory serves backward
        let Plan { batch, pushed, owner, .. } = &self.plan;
        model.backward(batch, above, &self.past, &mut dx, &mut self.run, &mut self.back);
        let mut gradient = Tensor::zeros(&model.compute, delta.shape());
        for part in 0..self.push.vectors() {
            if part == 1 && through {
                model.recompute_half(l, &mut self.run);
                model.mlp_backward(l, &mut dx, &self.run, &mut self.back);
            }
            rows::gather(&dx, pushed, &mut push);
            rows::scatter_add_part(&mut gradient, owner, part * d, &push);
        }
        gradient
    }

    /// What is asked of each fact's rows of logits, and what they said in the last step.
    pub fn aims(&self) -> &Aims {
        &self.plan.aims
    }

    /// The losses of a fact in the last step.
    pub fn parts(&mut self, fact: usize) -> Parts {
        self.plan.aims.read();
        let mut parts = Parts::default();
        for (aim, said) in self.plan.aims.of(fact) {
            match aim {
                Aim::Say { weight, .. } => {
                    parts.nll += weight * said.loss;
                    parts.missed += usize::from(!said.top);
                }
                Aim::Stay { weight, .. } => parts.kl += weight * said.loss,
            }
        }
        parts
    }

    /// Losses from the stream x (N, D) after the last layer; dx += their gradient.
    fn read(&mut self, x: &Tensor, dx: &mut Tensor) {
        let model = self.stepping.clone();
        let (compute, [d, v]) = (&model.compute, [model.arch.width, model.arch.vocabulary]);
        let Plan { pieces, aims, .. } = &mut self.plan;
        for piece in pieces {
            let mut picked = Tensor::zeros(compute, &[piece.rows.len(), d]);
            rows::gather(x, &piece.read, &mut picked);
            model.head(&picked, &mut self.saved, &mut self.logits);
            let fresh = piece.stays.iter().filter(|stay| stay.1 >= self.first.shape()[0]);
            let fresh: Vec<usize> = fresh.map(|stay| stay.0).collect();
            if !fresh.is_empty() {
                let mut logp = Tensor::zeros(compute, &[fresh.len(), v]);
                loss::log_softmax(&self.logits, &fresh, &mut logp);
                self.first.push_rows(&logp);
            }
            loss::gradient(&mut self.logits, aims, piece.rows.clone(), &self.first);
            let mut dpicked = model.head_backward(&self.logits, &self.saved);
            dpicked.set_rows(piece.into.len());
            rows::scatter_add(dx, &piece.into, &dpicked);
        }
    }

    /// Runs what precedes each lookup token beyond what is shared. Returns the keys and values of
    /// both, what follows packed behind them, and the facts.
    fn prefixes(&self, problems: &[Problem]) -> (KvCache, Plan, Vec<Slot>) {
        let (model, mut before) = (self.model, Batch::default());
        let mut slots = Vec::new();
        for p in problems {
            let mut suffixes = Vec::new();
            for (kind, (row, after)) in Problem::suffixes(p.rows).enumerate() {
                let shared = self.shared.rows(kind);
                let own = &row.ids[shared.len()..row.lookup];
                before.push_after(own, [shared, 0..0]);
                suffixes.push((after.to_vec(), kind, own.len()));
            }
            let target = p.rows.target.clone();
            slots.push(Slot { suffixes, target, kl_factor: p.kl_factor });
        }
        let tokens = before.len();
        let mut cache = self.shared.cache.clone();
        if tokens > 0 {
            before.fill(self.least);
            let (mut x, mut run) = (model.embed(&before), Run::new(model));
            let (layers, grow) = (0..self.push.above().end, Past::Grow(&mut cache));
            model.forward(&before, layers.clone(), grow, &mut x, &mut run, &mut |_, _| {});
            cache.keep(layers, std::slice::from_ref(&(0..self.shared.tokens() + tokens)));
        }
        let plan = Plan::of(&model.compute, &slots, self.shared, self.least);
        (cache, plan, slots)
    }
}

/// How slots are packed, and which batch rows are pushed and read.
struct Plan {
    batch: Batch,
    slots: Vec<Range<usize>>, // sequences of each
    pushed: Index,            // batch rows that δ is added to …
    owner: Index,             // … and the fact each belongs to
    aims: Aims,               // of rows of logits
    pieces: Vec<Piece>,
}

/// Rows of logits that are held at a time.
struct Piece {
    rows: Range<usize>,         // of all
    read: Index,                // batch rows they are of …
    into: Index,                // … without those that only fill the piece
    stays: Vec<(usize, usize)>, // rows of the piece that should stay, and the fact of each
}

impl Plan {
    fn of(compute: &Compute, slots: &[Slot], shared: &Shared, least: usize) -> Plan {
        let (mut batch, mut past) = (Batch::default(), shared.tokens());
        let (mut sequences, mut said) = (Vec::new(), Vec::new());
        let (mut pushed, mut owner) = (Vec::new(), Vec::new());
        let (mut read, mut aims) = (Vec::new(), Vec::new());
        for (fact, slot) in slots.iter().enumerate() {
            let from = (batch.seqs.len(), read.len());
            let (contexts, target) = (slot.suffixes.len() - 1, &slot.target);
            let weight = 1.0 / (target.len() * contexts) as f64;
            for (ids, kind, own) in &slot.suffixes {
                let before = [shared.rows(*kind), past..past + own];
                let rows = batch.push_after(ids, before);
                past += own;
                pushed.push(rows.start);
                owner.push(fact);
                if *kind == 0 {
                    read.push(rows.start);
                    aims.push(Aim::Stay { first: fact, weight: slot.kl_factor });
                    continue;
                }
                // The token at the end of the row predicts the last target token, and so on back.
                read.extend(rows.end - target.len()..rows.end);
                aims.extend(target.iter().map(|&target| Aim::Say { target, weight }));
            }
            sequences.push(from.0..batch.seqs.len());
            said.push(from.1..read.len());
        }
        batch.fill(least);
        let pieces = Piece::all(compute, &read, &mut aims, least);
        Plan {
            batch,
            slots: sequences,
            pushed: Index::new(compute, pushed),
            owner: Index::new(compute, owner),
            aims: Aims::new(compute, said, aims),
            pieces,
        }
    }
}

impl Piece {
    /// Pieces of at most [`READ`] rows, and of at least `least`: those that fill one are nobody's.
    fn all(compute: &Compute, read: &[usize], aims: &mut Vec<Aim>, least: usize) -> Vec<Piece> {
        const {
            assert!(
                2 * BATCH_INVARIANT_ROWS <= READ,
                "only a single piece is filled up, at its end"
            )
        };
        let n = read.len();
        let count = n.div_ceil(READ);
        let size = n.div_ceil(count.max(1)); // of all but the last, so that they reuse memory
        let piece = |i: usize| {
            let own = i * size..n.min((i + 1) * size);
            let mut rows = read[own.clone()].to_vec();
            rows.resize(rows.len().max(least), rows[0]);
            aims.resize(aims.len().max(least), Aim::Say { target: 0, weight: 0.0 });
            let stays = aims[own.clone()].iter().enumerate().filter_map(|(row, aim)| match aim {
                Aim::Stay { first, .. } => Some((row, *first)),
                Aim::Say { .. } => None,
            });
            Piece {
                rows: own.start..own.start + rows.len(),
                stays: stays.collect(),
                into: Index::new(compute, &read[own]),
                read: Index::new(compute, rows),
            }
        };
        (0..count).map(piece).collect()
    }
}
