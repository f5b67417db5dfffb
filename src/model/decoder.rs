//! The forward pass of every family. [`super::backward`] reads the same lines from the bottom up.
//!
//! ```text
//! x ← embed(ids)
//! x ← x + o(attention(q, k, v))        layer l;   q, k, v projections of norm₁(x)
//! x ← x + down(act(up(norm₂(x))))      layer l;   key = act(…), value = down(key) + b
//! z = head(norm(x))
//! ```
//!
//! In gated families the key is act(gate(norm₂(x))) · up(norm₂(x)), element by element. With
//! qk-norm, each head of q and k is normalised; with rotary positions, q and k are then rotated,
//! and the cache holds rotated keys. Where a layer is parallel, both its parts read the x that
//! enters it.
//!
//! The parts of a pass unwind where a device is out of memory: call them inside
//! [`Compute::run`](crate::tensor::Compute::run).

use std::ops::Range;
use std::sync::Arc;

use super::arch::Positions;
use super::batch::Batch;
use super::cache::KvCache;
use super::model::{Layer, Linear, Model};
use super::site::{At, Site};
use crate::base::{Result, or_unwind};
use crate::ops::attention::{KvRows, Packing};
use crate::ops::norm::Saved;
use crate::ops::rope::Angles;
use crate::ops::rows::{self, Index};
use crate::ops::{act, attention, embed, linear, norm, rope};
use crate::tensor::Tensor;

/// The keys and values that a batch attends to beyond its own.
pub enum Past<'a> {
    /// None: every sequence is whole.
    None,
    /// Rows of a cache, which does not change.
    Read(&'a KvCache),
    /// Rows of a cache, to which the batch's own are appended.
    Grow(&'a mut KvCache),
}

/// Is called with the tensor at every site of the pass, and may change it.
pub type Hook<'a> = &'a mut dyn FnMut(Site, &mut Tensor);

/// The [`Hook`] of a pass that nobody observes: `&mut no_hook`.
pub fn no_hook(_: Site, _: &mut Tensor) {}

/// Activations of a layer that backward reads.
pub struct Acts {
    pub(super) norm1: Saved,
    pub(super) q: Tensor,   // (N, H·E), rotated
    pub(super) k: Tensor,   // (N, G·E), rotated
    pub(super) v: Tensor,   // (N, G·E)
    pub(super) lse: Tensor, // (N, H)
    pub(super) qk_norm: Option<[Saved; 2]>,
    pub(super) norm2: Option<Saved>, // of sequential layers; in parallel ones x is that of norm1
    pub(super) up: Tensor,           // (N, F), before the activation, or beside a gate
    pub(super) gate: Option<Tensor>, // (N, F), before the activation
}

/// What a pass keeps for backward.
enum Keep {
    /// Nothing: each layer overwrites the activations of the one before.
    Nothing,
    /// The activations of every layer.
    All,
    /// The stream (N, D) at the entry of every layer. Backward runs each layer again, so that
    /// offloaded weights are uploaded once in each direction.
    Entries(Vec<Tensor>),
}

/// The buffers of a pass. One `Run` serves many passes; it grows to the largest.
pub struct Run {
    keep: Keep,
    first: usize,           // the lowest layer of which something is kept
    acts: Vec<Acts>,        // of every layer from `first` on, or of the layer that is running
    normed: Tensor,         // (N, D)
    attended: Tensor,       // (N, H·E)
    added: Tensor,          // (N, D)
    key: Tensor,            // (N, F)
    empty: Tensor,          // (0, G·E)
    batch: Option<Arc<()>>, // the version of the batch that these two belong to:
    pub(super) angles: Option<Angles>,
    pub(super) packing: Option<Packing>, // on a device
}

impl Run {
    /// Empty buffers, for passes without backward.
    pub fn new(model: &Model) -> Run {
        Run::of(model, Keep::Nothing, 0..1)
    }

    /// Empty buffers, for passes over `layers` that backward will visit.
    pub fn keeping(model: &Model, layers: Range<usize>) -> Run {
        if !model.offloads_weights() {
            return Run::of(model, Keep::All, layers);
        }
        let entry = |_| Tensor::zeros(&model.compute, &[0, model.arch.width]);
        let entries = Keep::Entries(layers.clone().map(entry).collect());
        Run::of(model, entries, layers.start..layers.start + 1)
    }

    /// Empty buffers with activations of some layers.
    fn of(model: &Model, keep: Keep, layers: Range<usize>) -> Run {
        let a = &model.arch;
        let wide = |width| Tensor::zeros(&model.compute, &[0, width]);
        let narrow = |width| Tensor::narrow(&model.compute, &[0, width]);
        let norm = |width| Saved::new(&model.compute, 0, width);
        let head_norm = || Saved { x: narrow(a.head_dim), ..norm(a.head_dim) };
        let acts = |_| Acts {
            norm1: norm(a.width),
            q: narrow(a.q_width()),
            k: narrow(a.kv_width()),
            v: narrow(a.kv_width()),
            lse: wide(a.n_heads),
            qk_norm: a.qk_norm.then(|| [head_norm(), head_norm()]),
            norm2: (!a.parallel).then(|| norm(a.width)),
            up: narrow(a.inner),
            gate: model.layers[0].gate.as_ref().map(|_| narrow(a.inner)),
        };
        Run {
            keep,
            first: layers.start,
            acts: layers.map(acts).collect(),
            normed: narrow(a.width),
            attended: narrow(a.q_width()),
            added: wide(a.width),
            key: narrow(a.inner),
            empty: narrow(a.kv_width()),
            batch: None,
            angles: None,
            packing: None,
        }
    }

    /// Sizes all buffers for the tokens of a batch, and computes its angles and packing, once a
    /// batch.
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
        if self.batch.as_ref().is_some_and(|version| Arc::ptr_eq(version, batch.version())) {
            return;
        }
        self.batch = Some(batch.version().clone());
        self.angles = match &model.arch.positions {
            Positions::Learned => None,
            Positions::Rotary(r) => Some(r.angles(&model.compute, &batch.positions)),
        };
        self.packing = model
            .compute
            .engine()
            .map(|e| or_unwind(Packing::of(e, &batch.seqs, model.layers[0].heads)));
    }

    /// The index in `acts` of layer l's activations.
    fn index(&self, l: usize) -> usize {
        match self.keep {
            Keep::All => l - self.first,
            Keep::Nothing | Keep::Entries(_) => 0,
        }
    }

    /// The activations of layer l.
    pub(super) fn acts(&self, l: usize) -> &Acts {
        &self.acts[self.index(l)]
    }

    /// Keeps the stream at the entry of layer l, if entries are kept.
    fn enter(&mut self, l: usize, x: &Tensor) {
        if let Keep::Entries(entries) = &mut self.keep {
            entries[l - self.first].copy_from(x);
        }
    }

    /// A copy of the stream at the entry of layer l, if entries are kept.
    fn entry(&self, l: usize) -> Option<Tensor> {
        match &self.keep {
            Keep::Entries(entries) => Some(entries[l - self.first].clone()),
            Keep::Nothing | Keep::All => None,
        }
    }
}

fn apply(x: &Tensor, p: &Linear, y: &mut Tensor) {
    linear::forward(x, &p.w, p.b.as_ref(), y);
}

impl Layer {
    /// added = o(attended), then the hook.
    fn close_attention(&self, layer: usize, run: &mut Run, hook: Hook) {
        apply(&run.attended, &self.o, &mut run.added);
        hook(Site { layer, at: At::Attention }, &mut run.added);
    }
}

impl Model {
    /// x (N, D) ← the embedding of a batch. Unwinds where the device is out of memory.
    #[doc(hidden)]
    pub fn embed(&self, batch: &Batch) -> Tensor {
        let mut x = Tensor::zeros(&self.compute, &[batch.len(), self.arch.width]);
        let positions = self.positions.as_ref().map(|w| (w, &batch.positions[..]));
        embed::forward(&batch.ids, &self.embed, positions, &mut x);
        x
    }

    /// x (N, D) ← the residual stream after `layers`, from that before them. Unwinds where the
    /// device is out of memory.
    #[doc(hidden)]
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
        let _hold = self.compute.hold();
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
    #[doc(hidden)]
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
    #[doc(hidden)]
    pub fn second_half(&self, batch: &Batch, l: usize, x: &mut Tensor, run: &mut Run, hook: Hook) {
        run.fit(self, batch);
        run.enter(l, x);
        self.mlp(l, &self.layers[l], x, false, run, hook);
        rows::add(x, &run.added);
    }

    /// Computes the activations of layer l again, if only its entry was kept.
    pub(super) fn recompute(&self, l: usize, batch: &Batch, past: &KvCache, run: &mut Run) {
        let Some(mut x) = run.entry(l) else { return };
        let w = &self.layers[l];
        self.attend(l, w, batch, &mut Past::Read(past), &x, run);
        if !self.arch.parallel {
            w.close_attention(l, run, &mut no_hook);
        }
        self.open_mlp(l, w, &mut x, !self.arch.parallel, run);
    }

    /// The same for a layer of which only the second half was run.
    #[doc(hidden)]
    pub fn recompute_half(&self, l: usize, run: &mut Run) {
        if let Some(mut x) = run.entry(l) {
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
        if let (Some([q, k]), Some([sq, sk])) = (&w.qk_norm, &mut a.qk_norm) {
            norm::heads_forward(&mut a.q, q, sq);
            norm::heads_forward(&mut a.k, k, sk);
        }
        if let Some(angles) = &run.angles {
            rope::rotate(&mut a.q, w.heads.queries, angles, false);
            rope::rotate(&mut a.k, w.heads.groups, angles, false);
        }
        let keys = KvRows {
            k: &a.k,
            v: &a.v,
            past: match past {
                Past::None => (&run.empty, &run.empty),
                Past::Read(cache) => cache.layer(l),
                Past::Grow(cache) => cache.layer(l),
            },
            seqs: &batch.seqs,
            packing: run.packing.as_ref(),
            heads: w.heads,
        };
        attention::forward(&a.q, keys, &mut run.attended, &mut a.lse);
        if let Past::Grow(cache) = past {
            cache.push(l, &a.k, &a.v);
        }
    }

    /// added = down(act(up(norm₂(x)))) of layer l, with hooks at the key and the value. If it
    /// `adds`, x ← x + added comes first.
    fn mlp(&self, l: usize, w: &Layer, x: &mut Tensor, adds: bool, run: &mut Run, hook: Hook) {
        self.open_mlp(l, w, x, adds, run);
        let a = &run.acts[run.index(l)];
        act::forward(self.arch.act, &a.up, a.gate.as_ref(), &mut run.key);
        hook(Site { layer: l, at: At::Key }, &mut run.key);
        apply(&run.key, &w.down, &mut run.added);
        hook(Site { layer: l, at: At::Value }, &mut run.added);
    }

    /// up(norm₂(x)) and gate(norm₂(x)) of layer l. If it `adds`, x ← x + added comes first.
    fn open_mlp(&self, l: usize, w: &Layer, x: &mut Tensor, adds: bool, run: &mut Run) {
        let i = run.index(l);
        let a = &mut run.acts[i];
        let saved = a.norm2.as_mut().unwrap_or(&mut a.norm1);
        if adds {
            norm::forward_adding(x, &run.added, &w.norm2, &mut run.normed, saved);
        } else {
            norm::forward(x, &w.norm2, &mut run.normed, saved);
        }
        apply(&run.normed, &w.up, &mut a.up);
        if let (Some(gate), Some(w)) = (&mut a.gate, &w.gate) {
            apply(&run.normed, w, gate);
        }
    }

    /// Logits z (rows, V) of rows of the residual stream after the last layer; `saved` is for
    /// backward. Unwinds where the device is out of memory.
    #[doc(hidden)]
    pub fn head(&self, x: &Tensor, saved: &mut Saved, z: &mut Tensor) {
        let [n, d] = x.dims();
        let mut normed = Tensor::narrow(&self.compute, &[n, d]);
        saved.set_rows(n);
        z.set_rows(n);
        norm::forward(x, &self.norm, &mut normed, saved);
        apply(&normed, &self.head, z);
    }

    /// Logits (chosen, V), on the host, of chosen rows after a whole pass over a batch.
    ///
    /// # Errors
    ///
    /// A device that is out of memory.
    pub fn logits(&self, batch: &Batch, past: Past, chosen: &[usize]) -> Result<Tensor> {
        self.compute.run(|| Ok(self.compute_logits(batch, past, chosen).into_host()))
    }

    /// Logits of every token of a whole text, on the host, at most `rows` rows at a time, in order.
    /// `each` may end the computation by returning false.
    ///
    /// # Errors
    ///
    /// A device that is out of memory.
    pub fn logits_in_chunks(
        &self,
        ids: &[u32],
        rows: usize,
        each: &mut dyn FnMut(&Tensor) -> bool,
    ) -> Result<()> {
        let all: Vec<usize> = (0..ids.len()).collect();
        let x = self.compute.run(|| Ok(self.last_stream(&Batch::whole([ids]), Past::None)))?;
        for chosen in all.chunks(rows) {
            let z = self.compute.run(|| Ok(self.logits_of(&x, chosen).into_host()))?;
            if !each(&z) {
                break;
            }
        }
        Ok(())
    }

    /// Logits (chosen, V), where the model computes, of chosen rows after a whole pass. Unwinds
    /// where the device is out of memory.
    pub(super) fn compute_logits(&self, batch: &Batch, past: Past, chosen: &[usize]) -> Tensor {
        self.logits_of(&self.last_stream(batch, past), chosen)
    }

    /// The residual stream after the last layer.
    fn last_stream(&self, batch: &Batch, past: Past) -> Tensor {
        let mut x = self.embed(batch);
        let mut run = Run::new(self);
        self.forward(batch, 0..self.arch.layers, past, &mut x, &mut run, &mut no_hook);
        x
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
