//! The gradient of a loss for the residual stream, from the logits down to a layer's entry.
//!
//! Weights and the cached past are constants, so dx is the only gradient. Each step differentiates
//! the line of [`super::decoder`] that it names. As there, all of this unwinds where a device is
//! out of memory.

use std::ops::Range;

use super::batch::Batch;
use super::cache::KvCache;
use super::decoder::Run;
use super::model::{Layer, Model};
use crate::ops::attention::{AttentionGrads, KvRows};
use crate::ops::norm::Saved;
use crate::ops::{act, attention, linear, norm, rope, rows};
use crate::tensor::{Compute, Tensor};

/// The buffers of a backward pass.
pub struct Back {
    dkey: Tensor,          // (N, F), then dup
    dgate: Option<Tensor>, // (N, F)
    dnorm: Tensor,         // (N, D)
    dattn: Tensor,         // (N, H·E)
    grads: AttentionGrads,
    rounded: Option<Tensor>, // (N, D): dx in the type that products read
}

/// An empty buffer for rows in the type that products read, if it is not the type they are computed
/// in.
fn rounding_buffer(compute: &Compute, width: usize) -> Option<Tensor> {
    (compute.narrow_size() < compute.precision().size())
        .then(|| Tensor::narrow(compute, &[0, width]))
}

/// x in the type that products read.
fn rounded<'a>(x: &'a Tensor, buffer: &'a mut Option<Tensor>) -> &'a Tensor {
    let Some(rounded) = buffer else { return x };
    let n = x.shape()[0];
    rounded.set_rows(n);
    rows::put(x, 0..n, rounded, 0);
    rounded
}

impl Back {
    /// Empty buffers.
    pub fn new(model: &Model) -> Back {
        let a = &model.arch;
        let wide = |width| Tensor::zeros(&model.compute, &[0, width]);
        let narrow = |width| Tensor::narrow(&model.compute, &[0, width]);
        Back {
            dkey: narrow(a.inner),
            dgate: model.layers[0].gate.as_ref().map(|_| narrow(a.inner)),
            dnorm: wide(a.width),
            dattn: narrow(a.q_width()),
            grads: AttentionGrads {
                dq: narrow(a.q_width()),
                dk: narrow(a.kv_width()),
                dv: narrow(a.kv_width()),
                total: wide(a.n_heads),
                mean: wide(a.n_heads),
            },
            rounded: rounding_buffer(&model.compute, a.width),
        }
    }

    /// Sizes all buffers for N tokens.
    pub fn fit(&mut self, n: usize) {
        let AttentionGrads { dq, dk, dv, total, mean } = &mut self.grads;
        for t in [&mut self.dkey, &mut self.dnorm, &mut self.dattn, dq, dk, dv, total, mean] {
            t.set_rows(n);
        }
        self.dgate.iter_mut().chain(&mut self.rounded).for_each(|t| t.set_rows(n));
    }
}

impl Model {
    /// dx (rows, D) = the gradient for the x that [`Model::head`] read, from dz (rows, V).
    #[doc(hidden)]
    pub fn head_backward(&self, dz: &Tensor, saved: &Saved) -> Tensor {
        let shape = [saved.x.shape()[0], self.arch.width];
        let mut dnorm = Tensor::zeros(&self.compute, &shape);
        let mut dx = Tensor::zeros(&self.compute, &shape);
        let mut buffer = rounding_buffer(&self.compute, self.arch.vocabulary);
        // z = head(norm(x))
        linear::backward(rounded(dz, &mut buffer), &self.head.w, &mut dnorm, false);
        norm::backward(&dnorm, &self.norm, saved, &mut dx);
        dx
    }

    /// dx (N, D) before `layers`, in place of that after them; `run` holds their activations.
    #[doc(hidden)]
    pub fn backward(
        &self,
        batch: &Batch,
        layers: Range<usize>,
        past: &KvCache,
        dx: &mut Tensor,
        run: &mut Run,
        back: &mut Back,
    ) {
        let _hold = self.compute.hold();
        for l in layers.rev() {
            let w = &self.layers[l];
            self.recompute(l, batch, past, run);
            if self.arch.parallel {
                linear::backward(rounded(dx, &mut back.rounded), &w.o.w, &mut back.dattn, false);
            }
            self.mlp_backward(l, dx, run, back);
            if !self.arch.parallel {
                linear::backward(rounded(dx, &mut back.rounded), &w.o.w, &mut back.dattn, false);
            }
            self.attend_backward(l, w, batch, past, dx, run, back);
        }
    }

    /// dx (N, D) before the second half of layer l, in place of that after it; `run` holds its
    /// activations. x ← x + down(act(up(norm₂(x))))
    #[doc(hidden)]
    pub fn mlp_backward(&self, l: usize, dx: &mut Tensor, run: &Run, b: &mut Back) {
        let w = &self.layers[l];
        let a = run.acts(l);
        linear::backward(rounded(dx, &mut b.rounded), &w.down.w, &mut b.dkey, false);
        let gate = a.gate.as_ref().zip(b.dgate.as_mut());
        act::backward(self.arch.act, &a.up, gate, &mut b.dkey);
        linear::backward(&b.dkey, &w.up.w, &mut b.dnorm, false);
        if let (Some(dgate), Some(gate)) = (&b.dgate, &w.gate) {
            linear::backward(dgate, &gate.w, &mut b.dnorm, true);
        }
        norm::backward(&b.dnorm, &w.norm2, a.norm2.as_ref().unwrap_or(&a.norm1), dx);
    }

    /// attended = attention(norm₁(x)), from its gradient in `dattn`
    #[allow(clippy::too_many_arguments)] // the operands of the line it differentiates
    fn attend_backward(
        &self,
        l: usize,
        w: &Layer,
        batch: &Batch,
        past: &KvCache,
        dx: &mut Tensor,
        run: &Run,
        b: &mut Back,
    ) {
        let a = run.acts(l);
        let keys = KvRows {
            k: &a.k,
            v: &a.v,
            past: past.layer(l),
            seqs: &batch.seqs,
            packing: run.packing.as_ref(),
            heads: w.heads,
        };
        let grads = &mut b.grads;
        attention::backward(&b.dattn, &a.q, keys, &a.lse, grads);
        if let Some(angles) = &run.angles {
            rope::rotate(&mut grads.dq, w.heads.queries, angles, true);
            rope::rotate(&mut grads.dk, w.heads.groups, angles, true);
        }
        if let (Some([q, k]), Some([sq, sk])) = (&w.qk_norm, &a.qk_norm) {
            norm::heads_backward(&mut grads.dq, q, sq);
            norm::heads_backward(&mut grads.dk, k, sk);
        }
        linear::backward(&grads.dq, &w.q.w, &mut b.dnorm, false);
        linear::backward(&grads.dk, &w.k.w, &mut b.dnorm, true);
        linear::backward(&grads.dv, &w.v.w, &mut b.dnorm, true);
        norm::backward(&b.dnorm, &w.norm1, &a.norm1, dx);
    }
}
