//! A branch of a layer: what reads the stream, computes, and adds to the stream.
//!
//! ```text
//! u = pre(x)      y = body(u)      x ← x + ρ post(y)      without a norm: u = x, x ← x + ρ y
//! ```
//!
//! The body runs in two steps, both ways. `Body::open` computes all that backward reads, and
//! `Body::close` the rest, so that a layer that is run again for backward ends with `open`.

use super::attention::{Attention, AttentionActs, AttentionBack};
use super::matrix::{Linear, Matrix};
use super::mlp::{Mlp, MlpActs, MlpBack};
use super::pass::{Buffers, Pass};
use super::token_bytes::{ElementBytes, TokenBytes};
use crate::ops::norm::{self, Norm, Saved};
use crate::ops::rows;
use crate::tensor::{Compute, Tensor};

/// A branch of a layer.
#[derive(Clone)]
pub struct Branch {
    /// Of what the body reads.
    pub pre: Option<Norm>,
    /// What it computes.
    pub body: Body,
    /// Of what joins the stream.
    pub post: Option<Norm>,
    /// ρ; 1 in most families.
    pub scale: f64,
}

/// What a branch computes.
#[derive(Clone)]
#[allow(clippy::large_enum_variant)] // one of each a layer, which is behind a pointer
pub enum Body {
    /// Attention.
    Attention(Attention),
    /// An MLP.
    Mlp(Mlp),
}

/// Activations of a branch that backward reads. One serves any branch: what a body does not use
/// stays empty.
pub(super) struct BranchActs {
    /// x, where a norm reads it.
    pub input: Saved,
    /// y, where a norm reads it.
    pub output: Saved,
    attention: AttentionActs,
    mlp: MlpActs,
}

impl BranchActs {
    /// Without rows.
    pub fn new(compute: &Compute) -> BranchActs {
        BranchActs {
            input: Saved::new(compute, 0, 0),
            output: Saved::new(compute, 0, 0),
            attention: AttentionActs::new(compute),
            mlp: MlpActs::new(compute),
        }
    }
}

/// The buffers of bodies in a pass backward.
pub(super) struct BodyBack {
    attention: AttentionBack,
    mlp: MlpBack,
}

impl BodyBack {
    /// Without rows.
    pub fn new(compute: &Compute) -> BodyBack {
        BodyBack { attention: AttentionBack::new(compute), mlp: MlpBack::new(compute) }
    }
}

impl Branch {
    /// Its matrices.
    pub fn matrices(&self) -> Box<dyn Iterator<Item = (Matrix, &Linear)> + '_> {
        match &self.body {
            Body::Attention(attention) => Box::new(attention.matrices()),
            Body::Mlp(mlp) => Box::new(mlp.matrices()),
        }
    }

    /// Whether what its body gives joins the stream without a norm or a factor.
    pub(super) fn adds_as_it_is(&self) -> bool {
        self.post.is_none() && self.scale == 1.0
    }

    /// The gradient for what the body gave, in place of that for what joined the stream; `saved` is
    /// of the norm.
    pub(super) fn backward_of_adding(&self, d: &mut Tensor, saved: &Saved) {
        if self.scale != 1.0 {
            rows::scale(d, self.scale);
        }
        if let Some(norm) = &self.post {
            norm::heads_backward(d, norm, saved);
        }
    }

    /// The same on another device.
    pub(super) fn on(&self, compute: &Compute) -> Branch {
        Branch {
            pre: self.pre.as_ref().map(|norm| norm.on(compute)),
            body: match &self.body {
                Body::Attention(attention) => Body::Attention(attention.on(compute)),
                Body::Mlp(mlp) => Body::Mlp(mlp.on(compute)),
            },
            post: self.post.as_ref().map(|norm| norm.on(compute)),
            scale: self.scale,
        }
    }
}

impl Body {
    /// What backward reads, from the `input` of the buffers.
    pub(super) fn open(&self, acts: &mut BranchActs, b: &mut Buffers, pass: &mut Pass) {
        match self {
            Body::Attention(w) => w.open(&mut b.input, &mut acts.attention, &mut b.attended, pass),
            Body::Mlp(w) => w.open(&mut b.input, &mut acts.mlp, pass),
        }
    }

    /// The rest, up to the `output` of the buffers.
    pub(super) fn close(&self, acts: &BranchActs, b: &mut Buffers, pass: &mut Pass) {
        let [n, d] = b.input.dims();
        b.output.set_shape([n, d]);
        match self {
            Body::Attention(w) => w.close(&mut b.attended, &mut b.output, pass),
            Body::Mlp(w) => w.close(&acts.mlp, &mut b.key, &mut b.output, pass),
        }
    }

    /// Backward of [`close`](Body::close), from the gradient dy (N, D) for its output.
    pub(super) fn close_backward(&self, dy: &Tensor, back: &mut BodyBack, pass: &mut Pass) {
        match self {
            Body::Attention(w) => w.close_backward(dy, &mut back.attention, pass),
            Body::Mlp(w) => w.close_backward(dy, &mut back.mlp, pass),
        }
    }

    /// Backward of [`open`](Body::open): the gradient du (N, D) for its input.
    pub(super) fn open_backward(
        &self,
        acts: &BranchActs,
        back: &mut BodyBack,
        du: &mut Tensor,
        pass: &mut Pass,
    ) {
        match self {
            Body::Attention(w) => w.open_backward(&acts.attention, &mut back.attention, du, pass),
            Body::Mlp(w) => w.open_backward(&acts.mlp, &mut back.mlp, du, pass),
        }
    }

    /// Bytes a token takes.
    pub(super) fn bytes_a_token(&self, size: ElementBytes) -> TokenBytes {
        match self {
            Body::Attention(attention) => attention.bytes_a_token(size),
            Body::Mlp(mlp) => mlp.bytes_a_token(size),
        }
    }

    /// The matrix that gives its output.
    pub(super) fn last(&self) -> Matrix {
        match self {
            Body::Attention(_) => Matrix::O,
            Body::Mlp(_) => Matrix::Down,
        }
    }
}
