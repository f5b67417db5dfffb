//! Attention: its weights, forward, backward, and the bytes a token takes in it.
//!
//! ```text
//! q, k, v = W u + b                      u (N, D), what the branch reads of the stream
//! q, k    ← norm(q), norm(k)             with qk-norm: of each head, or of all as one row
//! q, k    ← rotated                      where positions are rotary
//! a       = attention(q, k, v)           over the past and the batch's own tokens
//! y       = o(a)
//! ```
//!
//! A cache holds k as attention reads it, normalised and rotated. Backward reads the same lines
//! from the bottom up.

use super::cache::Past;
use super::matrix::{Linear, Matrix};
use super::pass::Pass;
use super::site::At::{Input, Output};
use super::token_bytes::{ElementBytes, TokenBytes};
use crate::ops::attention::{self, AttentionGrads, Heads, KvRows};
use crate::ops::norm::{self, Norm, Saved};
use crate::ops::rope;
use crate::tensor::{Compute, Tensor};

/// Attention's weights.
#[derive(Clone)]
pub struct Attention {
    /// (H·E, D).
    pub q: Linear,
    /// (G·E, D).
    pub k: Linear,
    /// (G·E, D).
    pub v: Linear,
    /// (D, H·E).
    pub o: Linear,
    /// H, G, E, the scale of the scores and the window.
    pub heads: Heads,
    /// Norms of q and of k, where the family has them: of each head (E), or of all (H·E, G·E).
    pub qk_norm: Option<[Norm; 2]>,
    /// Which of the model's rotary tables turns q and k, if one does.
    pub rotary: Option<usize>,
}

/// What backward reads.
pub(super) struct AttentionActs {
    q: Tensor,   // (N, H·E), as attention reads it
    k: Tensor,   // (N, G·E), likewise
    v: Tensor,   // (N, G·E)
    lse: Tensor, // (N, H)
    qk_norm: [Saved; 2],
}

impl AttentionActs {
    /// Without rows.
    pub fn new(compute: &Compute) -> AttentionActs {
        let narrow = || Tensor::narrow(compute, &[0, 0]);
        let norm = || Saved { x: narrow(), ..Saved::new(compute, 0, 0) };
        AttentionActs {
            q: narrow(),
            k: narrow(),
            v: narrow(),
            lse: Tensor::zeros(compute, &[0, 0]),
            qk_norm: [norm(), norm()],
        }
    }
}

/// The buffers of a pass backward.
pub(super) struct AttentionBack {
    da: Tensor, // (N, H·E)
    grads: AttentionGrads,
}

impl AttentionBack {
    /// Without rows.
    pub fn new(compute: &Compute) -> AttentionBack {
        let wide = || Tensor::zeros(compute, &[0, 0]);
        let narrow = || Tensor::narrow(compute, &[0, 0]);
        let (dq, dk, dv) = (narrow(), narrow(), narrow());
        let grads = AttentionGrads { dq, dk, dv, total: wide(), mean: wide() };
        AttentionBack { da: narrow(), grads }
    }
}

impl Attention {
    /// Its matrices.
    pub fn matrices(&self) -> impl Iterator<Item = (Matrix, &Linear)> {
        let all = [
            (Matrix::Q, &self.q),
            (Matrix::K, &self.k),
            (Matrix::V, &self.v),
            (Matrix::O, &self.o),
        ];
        all.into_iter()
    }

    /// The same on another device.
    pub(super) fn on(&self, compute: &Compute) -> Attention {
        Attention {
            q: self.q.on(compute),
            k: self.k.on(compute),
            v: self.v.on(compute),
            o: self.o.on(compute),
            heads: self.heads,
            qk_norm: self.qk_norm.as_ref().map(|norms| norms.each_ref().map(|n| n.on(compute))),
            rotary: self.rotary,
        }
    }

    /// What backward reads, and a (N, H·E), from u (N, D), which a hook may change. A cache that
    /// grows gets the batch's own keys and values.
    pub(super) fn open(
        &self,
        u: &mut Tensor,
        acts: &mut AttentionActs,
        a: &mut Tensor,
        pass: &mut Pass,
    ) {
        let n = u.shape()[0];
        acts.lse.set_shape([n, self.heads.queries]);
        a.set_shape([n, self.o.inner()]);
        for matrix in [Matrix::Q, Matrix::K, Matrix::V] {
            pass.show(Input(matrix), u);
        }
        let AttentionActs { q, k, v, .. } = acts;
        for (matrix, w, y) in
            [(Matrix::Q, &self.q, q), (Matrix::K, &self.k, k), (Matrix::V, &self.v, v)]
        {
            y.set_shape([n, w.out()]);
            w.forward(u, y);
            pass.show(Output(matrix), y);
        }
        if let Some([q, k]) = &self.qk_norm {
            let [sq, sk] = &mut acts.qk_norm;
            norm::heads_forward(&mut acts.q, q, sq);
            norm::heads_forward(&mut acts.k, k, sk);
        }
        if let Some(table) = self.rotary {
            let angles = pass.tables.angles(table);
            rope::rotate(&mut acts.q, self.heads.queries, angles, false);
            rope::rotate(&mut acts.k, self.heads.groups, angles, false);
        }
        let AttentionActs { q, k, v, lse, .. } = acts;
        attention::forward(q, self.rows([k, v], pass), a, lse);
        if let Past::Grow(cache) = &mut pass.past {
            cache.push(pass.layer, k, v);
        }
    }

    /// y (N, D) from a.
    pub(super) fn close(&self, a: &mut Tensor, y: &mut Tensor, pass: &mut Pass) {
        pass.show(Input(Matrix::O), a);
        self.o.forward(a, y);
        pass.show(Output(Matrix::O), y);
    }

    /// Backward of [`close`](Attention::close): da, from dy (N, D).
    pub(super) fn close_backward(&self, dy: &Tensor, back: &mut AttentionBack, pass: &mut Pass) {
        pass.show_gradient(Output(Matrix::O), dy);
        back.da.set_shape([dy.shape()[0], self.o.inner()]);
        self.o.backward(dy, &mut back.da, false);
        pass.show_gradient(Input(Matrix::O), &back.da);
    }

    /// Backward of [`open`](Attention::open): du (N, D), from da.
    pub(super) fn open_backward(
        &self,
        acts: &AttentionActs,
        back: &mut AttentionBack,
        du: &mut Tensor,
        pass: &mut Pass,
    ) {
        let n = du.shape()[0];
        let AttentionBack { da, grads } = back;
        let (q, kv, heads) = (self.q.out(), self.k.out(), self.heads.queries);
        let AttentionGrads { dq, dk, dv, total, mean } = grads;
        for (t, width) in [(dq, q), (dk, kv), (dv, kv), (total, heads), (mean, heads)] {
            t.set_shape([n, width]);
        }
        attention::backward(da, &acts.q, self.rows([&acts.k, &acts.v], pass), &acts.lse, grads);
        if let Some(table) = self.rotary {
            let angles = pass.tables.angles(table);
            rope::rotate(&mut grads.dq, self.heads.queries, angles, true);
            rope::rotate(&mut grads.dk, self.heads.groups, angles, true);
        }
        if let Some([q, k]) = &self.qk_norm {
            let [sq, sk] = &acts.qk_norm;
            norm::heads_backward(&mut grads.dq, q, sq);
            norm::heads_backward(&mut grads.dk, k, sk);
        }
        for (matrix, w, dy) in [
            (Matrix::Q, &self.q, &grads.dq),
            (Matrix::K, &self.k, &grads.dk),
            (Matrix::V, &self.v, &grads.dv),
        ] {
            pass.show_gradient(Output(matrix), dy);
            w.backward(dy, du, matrix != Matrix::Q);
        }
        for matrix in [Matrix::Q, Matrix::K, Matrix::V] {
            pass.show_gradient(Input(matrix), du);
        }
    }

    /// What q looks at.
    fn rows<'a>(&self, [k, v]: [&'a Tensor; 2], pass: &'a Pass) -> KvRows<'a> {
        KvRows {
            k,
            v,
            past: pass.past(),
            seqs: &pass.batch.seqs,
            packing: pass.tables.packing(self.heads),
            heads: self.heads,
        }
    }

    /// Bytes a token takes.
    pub(super) fn bytes_a_token(&self, size: ElementBytes) -> TokenBytes {
        let ElementBytes { wide, narrow } = size;
        let (q, kv, heads) = (self.q.out(), self.k.out(), self.heads);
        let norms = match &self.qk_norm {
            Some([of_q, of_k]) => {
                let rows = q / of_q.gain.len() + kv / of_k.gain.len();
                narrow * (q + kv) + wide * 2 * rows
            }
            None => 0,
        };
        TokenBytes {
            saved: narrow * (q + 2 * kv) + wide * heads.queries + norms,
            forward: narrow * q,
            backward: narrow * (2 * q + 2 * kv) + wide * 2 * heads.queries,
            past: narrow * 2 * kv,
            ..TokenBytes::default()
        }
    }
}
