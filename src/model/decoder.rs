//! The decoder of every family, forward and backward: embedding, layers, head.
//!
//! ```text
//! x ← embed(ids)          times a factor, in some families
//! x ← layer(x)            every layer, the first one first: `layer.rs`
//! z = head(norm(x))       a factor of z is in the gain of the norm
//! z ← c tanh(z/c)         in some families
//! ```
//!
//! Backward reads the same lines from the bottom up: dx, from the logits down to where a span
//! begins. The cached past is a constant; gradients of matrices are a hook's (`gradients.rs`).
//!
//! The parts of a pass unwind where a device is out of memory: call them inside
//! [`Compute::run`](crate::tensor::Compute::run).

use super::arch::Arch;
use super::batch::Batch;
use super::cache::{KvCache, Past};
use super::language_model::{LanguageModel, logits};
use super::layer::{Until, rounded, rounding_buffer};
use super::matrix_id::MatrixId;
use super::model::Model;
use super::pass::Pass;
use super::run::Run;
use super::site::{At, Hook, Site};
use super::span::{Position, Span};
use super::token_bytes::{ElementBytes, TokenBytes};
use crate::base::{Error, Result, or_unwind};
use crate::gpu::Engine;
use crate::ops::norm::Saved;
use crate::ops::rows::{self, Index};
use crate::ops::{embed, norm};
use crate::tensor::{Compute, Tensor};

impl Model {
    /// x (N, D) ← the embedding of a batch. Unwinds where the device is out of memory.
    #[doc(hidden)]
    pub fn embed(&self, batch: &Batch) -> Tensor {
        let mut x = Tensor::zeros(&self.compute, &[batch.len(), self.arch.width]);
        let positions = self.positions.as_ref().map(|w| (w, &batch.positions[..]));
        embed::forward(&batch.ids, &self.embed, positions, &mut x);
        if self.arch.scales.embed != 1.0 {
            rows::scale(&mut x, self.arch.scales.embed);
        }
        x
    }

    /// x (N, D) ← the residual stream after `span`, from that before it. Unwinds where the device
    /// is out of memory, and where the pass is recorded with a hook that cannot be.
    #[doc(hidden)]
    pub fn forward(
        &self,
        batch: &Batch,
        span: impl Into<Span>,
        past: Past,
        x: &mut Tensor,
        run: &mut Run,
        hook: &mut dyn Hook,
    ) {
        if batch.is_empty() {
            return;
        }
        let span = span.into();
        let _hold = self.compute.hold();
        self.refuse_unrecordable(hook);
        let heads = self.layers.iter().flat_map(|layer| layer.heads());
        run.tables.fit(&self.compute, batch, self.arch.rotary(), heads);
        let Run { kept, acts, tables, buffers, .. } = run;
        buffers.pending = false; // where a pass before was cut off
        let mut pass = Pass { batch, tables, past, hook, layer: 0 };
        for l in span.layers() {
            let layer = &self.layers[l];
            let branches = span.branches(l, layer.branches.len());
            pass.layer = l;
            if let Some(entry) = kept.entry_mut(l) {
                buffers.settle(x);
                entry.copy_from(x);
            }
            let ends = branches.end == layer.branches.len();
            layer.forward(branches, x, &mut acts[kept.index(l)], buffers, &mut pass, Until::Output);
            if ends && pass.shows(At::Stream) {
                buffers.settle(x);
                pass.show(At::Stream, x);
            }
        }
        buffers.settle(x);
    }

    /// dx (N, D) before `span`, in place of that after it; `run` holds its activations. Where it
    /// has them computed again, the hook is called on that way forward too.
    #[doc(hidden)]
    pub fn backward(
        &self,
        batch: &Batch,
        span: impl Into<Span>,
        past: &KvCache,
        dx: &mut Tensor,
        run: &mut Run,
        hook: &mut dyn Hook,
    ) {
        let span = span.into();
        let _hold = self.compute.hold();
        self.refuse_unrecordable(hook);
        let Run { kept, acts, tables, buffers, back } = run;
        let mut pass = Pass { batch, tables, past: Past::Read(past), hook, layer: 0 };
        let show_stream = |pass: &mut Pass, above: usize, dx: &Tensor| {
            if let Some(layer) = above.checked_sub(1) {
                pass.layer = layer;
                pass.show_gradient(At::Stream, dx);
            }
        };
        if span.to.branch == 0 {
            show_stream(&mut pass, span.to.layer, dx);
        }
        for l in span.layers().rev() {
            let layer = &self.layers[l];
            let acts = &mut acts[kept.index(l)];
            pass.layer = l;
            if let Some((mut x, branches)) = kept.entry(l, layer) {
                layer.forward(branches, &mut x, acts, buffers, &mut pass, Until::Saved);
            }
            let branches = span.branches(l, layer.branches.len());
            let begins = branches.start == 0;
            layer.backward(branches, dx, acts, back, &mut pass);
            if begins {
                show_stream(&mut pass, l, dx);
            }
        }
    }

    /// A recording is replayed without its hook, so only launches may be the hook's work.
    fn refuse_unrecordable(&self, hook: &dyn Hook) {
        let recording = self.compute.engine().is_some_and(Engine::is_recording);
        if recording && !hook.sites().is_empty() && !hook.records() {
            let what = "a pass is recorded, and its hook allocates or transfers";
            or_unwind(Err(Error::device(what, "run the pass without recording it")))
        }
    }

    /// The place before the branch that has a site, or behind the layer whose stream it is: how far
    /// down a pass backward has to run for it. Nothing where the model has no such matrix.
    pub fn place(&self, site: Site) -> Option<Position> {
        let layer = self.layers.get(site.layer)?;
        match site.at {
            At::Stream => Some(Position::before(site.layer + 1)),
            At::Input(matrix) | At::Output(matrix) => {
                // A parallel layer is one stretch.
                let branch = layer.branch_of(matrix)?;
                let branch = if layer.parallel { 0 } else { branch };
                Some(Position { layer: site.layer, branch })
            }
        }
    }

    /// Bytes that a token takes in passes over `span` that compute there, without entries of layers
    /// that are run again.
    pub fn bytes_a_token(&self, span: impl Into<Span>, compute: &Compute) -> TokenBytes {
        let span = span.into();
        let size = ElementBytes::of(compute);
        let d = self.arch.width;
        let layer = |l: usize| {
            let layer = &self.layers[l];
            layer.bytes_a_token(span.branches(l, layer.branches.len()), d, size)
        };
        let angles: usize = self.arch.rotary().iter().map(|r| 2 * r.frequency.len()).sum();
        let stream = TokenBytes {
            forward: size.wide * (2 * d + angles) + size.narrow * d, // x, output, input
            backward: size.wide * 2 * d + size.rounded() * d,        // dx, du, dy
            ..TokenBytes::default()
        };
        TokenBytes::shared(span.layers().map(layer)) + stream
    }

    /// Logits z (rows, V) of rows of the residual stream after the last layer; `saved` is for
    /// backward. Unwinds where the device is out of memory.
    #[doc(hidden)]
    pub fn head(&self, x: &Tensor, saved: &mut Saved, z: &mut Tensor) {
        let [n, d] = x.dims();
        let mut normed = Tensor::narrow(&self.compute, &[n, d]);
        saved.set_shape([n, d]);
        z.set_rows(n);
        norm::forward(x, &self.norm, &mut normed, saved);
        self.head.forward(&normed, z);
        if let Some(c) = self.arch.caps.logits {
            rows::cap(z, c);
        }
    }

    /// dx (rows, D) = the gradient for the x that [`head`](Model::head) read, from that for logits
    /// before their cap, dz (rows, V).
    #[doc(hidden)]
    pub fn head_backward(&self, dz: &Tensor, saved: &Saved) -> Tensor {
        let shape = [saved.x.shape()[0], self.arch.width];
        let mut dnorm = Tensor::zeros(&self.compute, &shape);
        let mut dx = Tensor::zeros(&self.compute, &shape);
        let mut buffer = rounding_buffer(&self.compute);
        self.head.backward(rounded(dz, &mut buffer), &mut dnorm, false);
        norm::backward(&dnorm, &self.norm, saved, &mut dx);
        dx
    }

    /// Logits (chosen, V), on the host, of chosen rows after a whole pass over a batch.
    ///
    /// # Errors
    ///
    /// A device that is out of memory.
    pub fn logits(&self, batch: &Batch, past: Past, chosen: &[usize]) -> Result<Tensor> {
        logits(self, batch, past, chosen)
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

impl LanguageModel for Model {
    fn arch(&self) -> &Arch {
        &self.arch
    }

    fn compute(&self) -> &Compute {
        &self.compute
    }

    fn matrix_sizes(&self, id: MatrixId) -> Option<[usize; 2]> {
        let [out, inner] = self.find(id)?.w.dims();
        Some([inner, out])
    }

    fn weights(&self) -> &Model {
        self
    }

    fn run_in_chunks(
        &self,
        batch: &Batch,
        past: &mut Past,
        (read, most): (&[usize], usize),
        hook: &mut dyn Hook,
        each: &mut dyn FnMut(Tensor) -> Result<bool>,
    ) -> Result<()> {
        let layers = if read.is_empty() && !matches!(past, Past::Grow(_)) {
            hook.sites().iter().map(|site| site.layer + 1).max().unwrap_or(0)
        } else {
            self.arch.layers
        };
        let x = self.compute.run(|| {
            let (mut x, mut run) = (self.embed(batch), Run::new(self));
            self.forward(batch, 0..layers, past.again(), &mut x, &mut run, hook);
            Ok(x)
        })?;
        for chosen in read.chunks(most) {
            let z = self.compute.run(|| Ok(self.logits_of(&x, chosen)))?;
            if !each(z)? {
                break;
            }
        }
        Ok(())
    }
}
