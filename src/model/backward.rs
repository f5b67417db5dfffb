//! The gradient of a loss for the residual stream, from the logits down to a layer's entry.
//!
//! Weights are frozen and the cached past does not depend on what is pushed, so dx is all there
//! is. Each step undoes the line of [`super::decoder`] that it names.

use std::ops::Range;

use super::batch::Batch;
use super::cache::Cache;
use super::decoder::Run;
use super::load::{Layer, Model};
use crate::ops::attention::{Grads, Keys};
use crate::ops::norm::Saved;
use crate::ops::{act, attention, linear, norm, rope, rows};
use crate::tensor::{Compute, Tensor};

/// Room for the backward pass of a batch.
pub struct Back {
    dkey: Tensor,          // (N, F), then dup
    dgate: Option<Tensor>, // (N, F)
    dnorm: Tensor,         // (N, D)
    dattn: Tensor,         // (N, H·E)
    grads: Grads,
    rounded: Option<Tensor>, // (N, D): dx as products read it
}

/// Room for rows of what products read, where that is not what they are computed in.
fn room(compute: &Compute, width: usize) -> Option<Tensor> {
    (compute.narrow_size() < compute.precision().size())
        .then(|| Tensor::narrow(compute, &[0, width]))
}

/// x as products read it.
fn read<'a>(x: &'a Tensor, room: &'a mut Option<Tensor>) -> &'a Tensor {
    let Some(rounded) = room else { return x };
    let n = x.shape()[0];
    rounded.set_rows(n);
    rows::put(x, 0..n, rounded, 0);
    rounded
}

impl Back {
    /// Room for no token yet.
    pub fn new(model: &Model) -> Back {
        let a = &model.arch;
        let wide = |width| Tensor::zeros(&model.compute, &[0, width]);
        let rows = |width| Tensor::narrow(&model.compute, &[0, width]);
        let (qw, kw) = (a.queries * a.head, a.groups * a.head);
        Back {
            dkey: rows(a.inner),
            dgate: model.layers[0].gate.as_ref().map(|_| rows(a.inner)),
            dnorm: wide(a.width),
            dattn: rows(qw),
            grads: Grads {
                dq: rows(qw),
                dk: rows(kw),
                dv: rows(kw),
                total: wide(a.queries),
                mean: wide(a.queries),
            },
            rounded: room(&model.compute, a.width),
        }
    }

    /// Room for N tokens.
    pub fn fit(&mut self, n: usize) {
        let Grads { dq, dk, dv, total, mean } = &mut self.grads;
        for t in [&mut self.dkey, &mut self.dnorm, &mut self.dattn, dq, dk, dv, total, mean] {
            t.set_rows(n);
        }
        self.dgate.iter_mut().chain(&mut self.rounded).for_each(|t| t.set_rows(n));
    }
}

impl Model {
    /// dx (rows, D) = the gradient for what [`Model::head`] read, from dz (rows, V).
    pub fn head_backward(&self, dz: &Tensor, saved: &Saved) -> Tensor {
        let shape = [saved.x.shape()[0], self.arch.width];
        let mut dnorm = Tensor::zeros(&self.compute, &shape);
        let mut dx = Tensor::zeros(&self.compute, &shape);
        let mut rounded = room(&self.compute, self.arch.vocabulary);
        // z = head(norm(x))
        linear::backward(read(dz, &mut rounded), &self.head.w, &mut dnorm, false);
        norm::backward(&dnorm, &self.norm, saved, &mut dx);
        dx
    }

    /// Turns dx (N, D) after `layers` into dx before them; `run` holds their activations.
    pub fn backward(
        &self,
        batch: &Batch,
        layers: Range<usize>,
        past: &Cache,
        dx: &mut Tensor,
        run: &mut Run,
        back: &mut Back,
    ) {
        for l in layers.rev() {
            let w = &self.layers[l];
            self.recall(l, batch, past, run);
            if self.arch.parallel {
                linear::backward(read(dx, &mut back.rounded), &w.o.w, &mut back.dattn, false);
            }
            self.mlp_backward(l, dx, run, back);
            if !self.arch.parallel {
                linear::backward(read(dx, &mut back.rounded), &w.o.w, &mut back.dattn, false);
            }
            self.attend_backward(l, w, batch, past, dx, run, back);
        }
    }

    /// Turns dx (N, D) after the second half of layer l into dx before it; `run` holds its
    /// activations. x ← x + down(act(up(norm₂(x))))
    pub fn mlp_backward(&self, l: usize, dx: &mut Tensor, run: &Run, b: &mut Back) {
        let (w, a) = (&self.layers[l], run.acts(l));
        linear::backward(read(dx, &mut b.rounded), &w.down.w, &mut b.dkey, false);
        let gate = a.gate.as_ref().zip(b.dgate.as_mut());
        act::backward(self.arch.act, &a.up, gate, &mut b.dkey);
        linear::backward(&b.dkey, &w.up.w, &mut b.dnorm, false);
        if let (Some(dgate), Some(gate)) = (&b.dgate, &w.gate) {
            linear::backward(dgate, &gate.w, &mut b.dnorm, true);
        }
        norm::backward(&b.dnorm, &w.norm2, a.norm2.as_ref().unwrap_or(&a.norm1), dx);
    }

    /// attended = attention(norm₁(x)), from its gradient in `dattn`
    #[allow(clippy::too_many_arguments)] // the operands of the line it undoes
    fn attend_backward(
        &self,
        l: usize,
        w: &Layer,
        batch: &Batch,
        past: &Cache,
        dx: &mut Tensor,
        run: &Run,
        b: &mut Back,
    ) {
        let a = run.acts(l);
        let (k, v, grads) = (&a.k, &a.v, &mut b.grads);
        let (past, seqs, packing) = (past.layer(l), &batch.seqs[..], run.packing.as_ref());
        let keys = Keys { k, v, past, seqs, packing, heads: w.heads };
        attention::backward(&b.dattn, &a.q, keys, &a.lse, grads);
        if let Some(angles) = &run.angles {
            rope::rotate(&mut grads.dq, w.heads.queries, angles, true);
            rope::rotate(&mut grads.dk, w.heads.groups, angles, true);
        }
        if let (Some([q, k]), Some([sq, sk])) = (&w.head_norms, &a.head_norms) {
            norm::heads_backward(&mut grads.dq, q, sq);
            norm::heads_backward(&mut grads.dk, k, sk);
        }
        linear::backward(&grads.dq, &w.q.w, &mut b.dnorm, false);
        linear::backward(&grads.dk, &w.k.w, &mut b.dnorm, true);
        linear::backward(&grads.dv, &w.v.w, &mut b.dnorm, true);
        norm::backward(&b.dnorm, &w.norm1, &a.norm1, dx);
    }
}
