//! The forward pass of every family. [`super::backward`] reads the same lines from the bottom up.
//!
//! ```text
//! x ← embed(ids)
//! x ← x + o(attention(q, k, v))        layer l;   q, k, v projections of norm₁(x)
//! x ← x + down(act(up(norm₂(x))))      layer l;   key = act(…), value = down(key) + b
//! z = head(norm(x))
//! ```
//!
//! In gated families the key is act(gate(norm₂(x))) · up(norm₂(x)), element by element. Where there
//! are norms of heads, each head of q and k is normalised by itself; where positions are rotary, q
//! and k are then turned by them, and only turned keys are kept. Where a layer's two parts are
//! parallel, both read the x that enters it.

use std::ops::Range;
use std::sync::Arc;

use super::arch::Positions;
use super::batch::Batch;
use super::cache::Cache;
use super::load::{Layer, Linear, Model};
use super::site::{At, Site};
use crate::base::fits;
use crate::ops::attention::{Keys, Packing};
use crate::ops::norm::Saved;
use crate::ops::rope::Angles;
use crate::ops::rows::{self, Index};
use crate::ops::{act, attention, embed, linear, norm, rope};
use crate::tensor::Tensor;

/// What a layer looks back at beyond the batch itself.
pub enum Past<'a> {
    /// Nothing: every sequence is whole.
    None,
    /// Rows of a cache, which stays as it is.
    Read(&'a Cache),
    /// Rows of a cache, to which the batch's own are added.
    Grow(&'a mut Cache),
}

/// Sees, and may change, the tensor at every site the pass comes by.
pub type Hook<'a> = &'a mut dyn FnMut(Site, &mut Tensor);

/// What backward keeps of a layer.
pub struct Acts {
    pub(super) norm1: Saved,
    pub(super) q: Tensor,   // (N, H·E), turned
    pub(super) k: Tensor,   // (N, G·E), turned
    pub(super) v: Tensor,   // (N, G·E)
    pub(super) lse: Tensor, // (N, H)
    pub(super) head_norms: Option<[Saved; 2]>,
    pub(super) norm2: Option<Saved>, // where it does not read what norm1 reads
    pub(super) up: Tensor,           // (N, F), before the activation, or beside a gate
    pub(super) gate: Option<Tensor>, // (N, F), before the activation
}

/// The memory of a pass: activations of the layers that backward will visit, and room to work in.
/// Where weights come and go, a layer's are there once a direction, so of those layers only the
/// stream at their entry is kept, and backward runs a layer again while its weights are there.
/// One `Run` serves many passes; it grows to the largest.
pub struct Run {
    acts: Vec<Acts>,
    first: usize,            // the layer of acts[0]
    entries: Vec<Tensor>,    // (N, D) by layer, in place of all acts but one
    normed: Tensor,          // (N, D)
    attended: Tensor,        // (N, H·E)
    added: Tensor,           // (N, D)
    key: Tensor,             // (N, F)
    empty: Tensor,           // (0, G·E)
    placed: Option<Arc<()>>, // the batch's version of which are:
    pub(super) angles: Option<Angles>,
    pub(super) packing: Option<Packing>, // on a device
}

impl Run {
    /// Room for passes without backward.
    pub fn new(model: &Model) -> Run {
        Run::of(model, 0..1)
    }

    /// Room for passes over `layers` that backward will visit.
    pub fn keeping(model: &Model, layers: Range<usize>) -> Run {
        if !model.streams() {
            return Run::of(model, layers);
        }
        let entry = |_| Tensor::zeros(&model.compute, &[0, model.arch.width]);
        let entries = layers.clone().map(entry).collect();
        Run { entries, ..Run::of(model, layers.start..layers.start + 1) }
    }

    fn of(model: &Model, layers: Range<usize>) -> Run {
        let a = &model.arch;
        let wide = |width| Tensor::zeros(&model.compute, &[0, width]);
        let rows = |width| Tensor::narrow(&model.compute, &[0, width]);
        let norm = |width| Saved::new(&model.compute, 0, width);
        let heads = || Saved { x: rows(a.head), ..norm(a.head) };
        let (qw, kw) = (a.queries * a.head, a.groups * a.head);
        let acts = |_| Acts {
            norm1: norm(a.width),
            q: rows(qw),
            k: rows(kw),
            v: rows(kw),
            lse: wide(a.queries),
            head_norms: a.head_norms.then(|| [heads(), heads()]),
            norm2: (!a.parallel).then(|| norm(a.width)),
            up: rows(a.inner),
            gate: model.layers[0].gate.as_ref().map(|_| rows(a.inner)),
        };
        Run {
            first: layers.start,
            acts: layers.map(acts).collect(),
            entries: Vec::new(),
            normed: rows(a.width),
            attended: rows(qw),
            added: wide(a.width),
            key: rows(a.inner),
            empty: rows(kw),
            placed: None,
            angles: None,
            packing: None,
        }
    }

    /// Sizes everything for the tokens of a batch and looks up their angles, once a batch.
    fn fit(&mut self, model: &Model, batch: &Batch) {
        let n = batch.len();
        for a in &mut self.acts {
            a.norm1.set_rows(n);
            a.norm2.iter_mut().for_each(|t| t.set_rows(n));
            for t in [&mut a.q, &mut a.k, &mut a.v, &mut a.lse, &mut a.up] {
                t.set_rows(n);
            }
            a.gate.iter_mut().for_each(|t| t.set_rows(n));
        }
        for t in [&mut self.normed, &mut self.attended, &mut self.added, &mut self.key] {
            t.set_rows(n);
        }
        if self.placed.as_ref().is_some_and(|placed| Arc::ptr_eq(placed, batch.version())) {
            return;
        }
        self.placed = Some(batch.version().clone());
        self.angles = match &model.arch.positions {
            Positions::Learned => None,
            Positions::Rotary(r) => Some(r.angles(&model.compute, &batch.positions)),
        };
        self.packing = model
            .compute
            .engine()
            .map(|e| fits(Packing::of(e, &batch.seqs, model.layers[0].heads)));
    }

    /// Where layer l keeps its activations; passes without backward use one place for all.
    fn index(&self, l: usize) -> usize {
        if self.acts.len() == 1 { 0 } else { l - self.first }
    }

    /// What is kept of layer l.
    pub(super) fn acts(&self, l: usize) -> &Acts {
        &self.acts[self.index(l)]
    }

    /// Keeps the stream at the entry of layer l, where that is all that is kept.
    fn enter(&mut self, l: usize, x: &Tensor) {
        if let Some(entry) = self.entries.get_mut(l - self.first) {
            entry.copy_from(x);
        }
    }
}

fn apply(x: &Tensor, p: &Linear, y: &mut Tensor) {
    linear::forward(x, &p.w, p.b.as_ref(), y);
}

impl Layer {
    /// added = o(attended); shows it.
    fn close_attention(&self, layer: usize, run: &mut Run, hook: Hook) {
        apply(&run.attended, &self.o, &mut run.added);
        hook(Site { layer, at: At::Attention }, &mut run.added);
    }
}

impl Model {
    /// x (N, D) ← the embedding of a batch.
    pub fn embed(&self, batch: &Batch) -> Tensor {
        let mut x = Tensor::zeros(&self.compute, &[batch.len(), self.arch.width]);
        let positions = self.positions.as_ref().map(|w| (w, &batch.positions[..]));
        embed::forward(&batch.ids, &self.embed, positions, &mut x);
        x
    }

    /// x (N, D) ← the residual stream after `layers`, from that before them.
    pub fn forward(
        &self,
        batch: &Batch,
        layers: Range<usize>,
        mut past: Past,
        x: &mut Tensor,
        run: &mut Run,
        hook: Hook,
    ) {
        if batch.is_empty() {
            return;
        }
        run.fit(self, batch);
        for l in layers {
            let w = &self.layers[l];
            run.enter(l, x);
            self.attend(l, w, batch, &mut past, x, run);
            if !self.arch.parallel {
                w.close_attention(l, run, hook);
            }
            self.mlp(l, w, x, !self.arch.parallel, run, hook);
            rows::add(x, &run.added);
            if self.arch.parallel {
                w.close_attention(l, run, hook);
                rows::add(x, &run.added);
            }
            hook(Site { layer: l, at: At::Stream }, x);
        }
    }

    /// The first half of a sequential layer: x ← x + o(attention(norm₁(x))).
    pub fn first_half(
        &self,
        batch: &Batch,
        l: usize,
        mut past: Past,
        x: &mut Tensor,
        run: &mut Run,
        hook: Hook,
    ) {
        run.fit(self, batch);
        self.attend(l, &self.layers[l], batch, &mut past, x, run);
        self.layers[l].close_attention(l, run, hook);
        rows::add(x, &run.added);
    }

    /// The second half of a sequential layer: x ← x + down(act(up(norm₂(x)))).
    pub fn second_half(&self, batch: &Batch, l: usize, x: &mut Tensor, run: &mut Run, hook: Hook) {
        run.fit(self, batch);
        run.enter(l, x);
        self.mlp(l, &self.layers[l], x, false, run, hook);
        rows::add(x, &run.added);
    }

    /// Runs layer l again, if only its entry was kept, for what backward reads.
    pub(super) fn recall(&self, l: usize, batch: &Batch, past: &Cache, run: &mut Run) {
        let Some(entry) = run.entries.get(l - run.first) else { return };
        let (w, mut x) = (&self.layers[l], entry.clone());
        self.attend(l, w, batch, &mut Past::Read(past), &x, run);
        if !self.arch.parallel {
            w.close_attention(l, run, &mut |_, _| {});
        }
        self.open_mlp(l, w, &mut x, !self.arch.parallel, run);
    }

    /// Runs the second half of layer l again, if only its entry was kept, for what
    /// [`mlp_backward`](Model::mlp_backward) reads.
    pub fn recall_half(&self, l: usize, run: &mut Run) {
        if let Some(entry) = run.entries.get(l - run.first) {
            let mut x = entry.clone();
            self.open_mlp(l, &self.layers[l], &mut x, false, run);
        }
    }

    /// attended = attention(norm₁(x)) of layer l.
    fn attend(
        &self,
        l: usize,
        w: &Layer,
        batch: &Batch,
        past: &mut Past,
        x: &Tensor,
        run: &mut Run,
    ) {
        let i = run.index(l);
        let a = &mut run.acts[i];
        norm::forward(x, &w.norm1, &mut run.normed, &mut a.norm1);
        apply(&run.normed, &w.q, &mut a.q);
        apply(&run.normed, &w.k, &mut a.k);
        apply(&run.normed, &w.v, &mut a.v);
        if let (Some([q, k]), Some([sq, sk])) = (&w.head_norms, &mut a.head_norms) {
            norm::heads_forward(&mut a.q, q, sq);
            norm::heads_forward(&mut a.k, k, sk);
        }
        if let Some(angles) = &run.angles {
            rope::rotate(&mut a.q, w.heads.queries, angles, false);
            rope::rotate(&mut a.k, w.heads.groups, angles, false);
        }
        let seen = match past {
            Past::None => (&run.empty, &run.empty),
            Past::Read(cache) => cache.layer(l),
            Past::Grow(cache) => cache.layer(l),
        };
        let (k, v) = (&a.k, &a.v);
        let packing = run.packing.as_ref();
        let keys = Keys { k, v, past: seen, seqs: &batch.seqs, packing, heads: w.heads };
        attention::forward(&a.q, keys, &mut run.attended, &mut a.lse);
        if let Past::Grow(cache) = past {
            cache.push(l, &a.k, &a.v);
        }
    }

    /// added = down(act(up(norm₂(x)))) of layer l; shows the key and the value. Where it `adds`,
    /// x ← x + added comes first.
    fn mlp(&self, l: usize, w: &Layer, x: &mut Tensor, adds: bool, run: &mut Run, hook: Hook) {
        self.open_mlp(l, w, x, adds, run);
        let a = &run.acts[run.index(l)];
        act::forward(self.arch.act, &a.up, a.gate.as_ref(), &mut run.key);
        hook(Site { layer: l, at: At::Key }, &mut run.key);
        apply(&run.key, &w.down, &mut run.added);
        hook(Site { layer: l, at: At::Value }, &mut run.added);
    }

    /// up(norm₂(x)), and what gates it; x ← x + added first, where it `adds`.
    fn open_mlp(&self, l: usize, w: &Layer, x: &mut Tensor, adds: bool, run: &mut Run) {
        let i = run.index(l);
        let a = &mut run.acts[i];
        let saved = a.norm2.as_mut().unwrap_or(&mut a.norm1);
        match adds {
            true => norm::forward_adding(x, &run.added, &w.norm2, &mut run.normed, saved),
            false => norm::forward(x, &w.norm2, &mut run.normed, saved),
        }
        apply(&run.normed, &w.up, &mut a.up);
        if let (Some(gate), Some(w)) = (&mut a.gate, &w.gate) {
            apply(&run.normed, w, gate);
        }
    }

    /// Logits z (rows, V) of rows of the residual stream after the last layer; `saved` is for
    /// backward.
    pub fn head(&self, x: &Tensor, saved: &mut Saved, z: &mut Tensor) {
        let [n, d] = x.dims();
        let mut normed = Tensor::narrow(&self.compute, &[n, d]);
        saved.set_rows(n);
        z.set_rows(n);
        norm::forward(x, &self.norm, &mut normed, saved);
        apply(&normed, &self.head, z);
    }

    /// The residual stream after all layers.
    pub fn stream(&self, batch: &Batch, past: Past) -> Tensor {
        let mut x = self.embed(batch);
        let mut run = Run::new(self);
        self.forward(batch, 0..self.arch.layers, past, &mut x, &mut run, &mut |_, _| {});
        x
    }

    /// Logits (chosen, V) of chosen rows after a whole pass over a batch.
    pub fn logits(&self, batch: &Batch, past: Past, chosen: &[usize]) -> Tensor {
        self.logits_of(&self.stream(batch, past), chosen)
    }

    /// Logits of every token of a whole text, `most` rows at a time, in order.
    ///
    /// # Errors
    ///
    /// Whatever `each` returns.
    pub fn logits_in_chunks<E>(
        &self,
        ids: &[u32],
        most: usize,
        each: &mut dyn FnMut(&Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let x = self.stream(&Batch::whole([ids]), Past::None);
        let all: Vec<usize> = (0..ids.len()).collect();
        all.chunks(most).try_for_each(|rows| each(&self.logits_of(&x, rows)))
    }

    /// Logits of chosen rows of the residual stream after the last layer.
    fn logits_of(&self, x: &Tensor, chosen: &[usize]) -> Tensor {
        let d = self.arch.width;
        let mut picked = Tensor::zeros(&self.compute, &[chosen.len(), d]);
        rows::gather(x, &Index::new(&self.compute, chosen), &mut picked);
        let mut saved = Saved::new(&self.compute, 0, d);
        let mut z = Tensor::zeros(&self.compute, &[0, self.arch.vocabulary]);
        self.head(&picked, &mut saved, &mut z);
        z
    }
}
