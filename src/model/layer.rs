//! A layer: branches on the stream x, and the line that adds what they compute.
//!
//! ```text
//! sequential   x ← x + f₁(x)              each branch reads what those before it added
//!              x ← x + f₂(x)
//! parallel     x ← x + f₁(x) + f₂(x)      all read the x that enters the layer
//! ```
//!
//! An output joins the stream where the next norm reads it, in one launch, or at the layer's end.
//! Backward, dx of a sequential layer passes the branches from the last to the first; in a parallel
//! one all read the dx that enters, and add theirs in the order of the branches.

use std::ops::Range;

use super::branch::{Body, BodyBack, Branch, BranchActs};
use super::matrix::{Linear, Matrix};
use super::pass::{Buffers, Pass};
use super::token_bytes::{ElementBytes, TokenBytes};
use crate::ops::attention::Heads;
use crate::ops::{norm, rows};
use crate::tensor::{Compute, Tensor};

/// The weights of one layer.
#[derive(Clone)]
pub struct Layer {
    /// In the order in which their outputs join the stream: attention and then the MLP, in parallel
    /// layers the MLP first.
    pub branches: Vec<Branch>,
    /// Whether all branches read the stream that enters the layer.
    pub parallel: bool,
}

/// How far a layer is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// All of it: the last output is pending, or has joined the stream.
    Output,
    /// Only what backward reads.
    Saved,
}

/// The buffers that layers share in a pass backward.
pub(super) struct LayerBack {
    body: BodyBack,          // no two branches of a parallel layer are of one kind
    du: Tensor,              // (N, D): of what a body read
    dy: Tensor,              // (N, D): of what a body gave, where that is not added as it is
    rounded: Option<Tensor>, // (N, D): a gradient in the type that products read
}

impl LayerBack {
    /// Without rows.
    pub fn new(compute: &Compute) -> LayerBack {
        LayerBack {
            body: BodyBack::new(compute),
            du: Tensor::zeros(compute, &[0, 0]),
            dy: Tensor::zeros(compute, &[0, 0]),
            rounded: rounding_buffer(compute),
        }
    }
}

/// An empty buffer for rows in the type that products read, if it is not the type they are computed
/// in.
pub(super) fn rounding_buffer(compute: &Compute) -> Option<Tensor> {
    (compute.narrow_size() < compute.precision().size()).then(|| Tensor::narrow(compute, &[0, 0]))
}

/// x in the type that products read.
pub(super) fn rounded<'a>(x: &'a Tensor, buffer: &'a mut Option<Tensor>) -> &'a Tensor {
    let Some(rounded) = buffer else { return x };
    let [n, width] = x.dims();
    rounded.set_shape([n, width]);
    rows::put(x, 0..n, rounded, 0);
    rounded
}

impl Layer {
    /// The heads of its attention, as often as it has any.
    pub(super) fn heads(&self) -> impl Iterator<Item = Heads> {
        self.branches.iter().filter_map(|branch| match &branch.body {
            Body::Attention(attention) => Some(attention.heads),
            Body::Mlp(_) => None,
        })
    }

    /// Its matrices.
    pub fn matrices(&self) -> impl Iterator<Item = (Matrix, &Linear)> {
        self.branches.iter().flat_map(Branch::matrices)
    }

    /// Which branch has a matrix, if one has.
    pub fn branch_of(&self, matrix: Matrix) -> Option<usize> {
        let has = |branch: &Branch| branch.matrices().any(|(own, _)| own == matrix);
        self.branches.iter().position(has)
    }

    /// The same on another device.
    pub(super) fn on(&self, compute: &Compute) -> Layer {
        let branches = self.branches.iter().map(|branch| branch.on(compute)).collect();
        Layer { branches, parallel: self.parallel }
    }

    /// Runs some branches; `acts` are those of all. What they add to x (N, D) may be pending.
    pub(super) fn forward(
        &self,
        branches: Range<usize>,
        x: &mut Tensor,
        acts: &mut [BranchActs],
        b: &mut Buffers,
        pass: &mut Pass,
        until: Until,
    ) {
        // From this branch on, nothing in the layer reads the outputs of those before.
        let last = if self.parallel { branches.start } else { branches.end - 1 };
        for i in branches {
            let Branch { body, post, scale, .. } = &self.branches[i];
            self.read(i, x, acts, b);
            body.open(&mut acts[i], b, pass);
            let joins = until == Until::Output || i < last;
            // Backward reads what a norm read, and a hook what it asks for.
            if !joins && post.is_none() && !pass.shows_either(body.last()) {
                continue;
            }
            body.close(&acts[i], b, pass);
            if let Some(norm) = post {
                norm::heads_forward(&mut b.output, norm, &mut acts[i].output);
            }
            if joins && *scale != 1.0 {
                rows::scale(&mut b.output, *scale);
            }
            b.pending = joins;
        }
    }

    /// The `input` of the buffers ← what the body of branch i reads. An output that is pending
    /// joins x first if branch i reads it, and else behind.
    fn read(&self, i: usize, x: &mut Tensor, acts: &mut [BranchActs], b: &mut Buffers) {
        let [n, d] = x.dims();
        b.input.set_shape([n, d]);
        let source = self.source(i);
        let saved = &mut acts[source].input;
        match &self.branches[i].pre {
            Some(norm) => {
                saved.set_shape([n, d]);
                if source == i && std::mem::take(&mut b.pending) {
                    norm::forward_adding(x, &b.output, norm, &mut b.input, saved);
                } else {
                    norm::forward(x, norm, &mut b.input, saved);
                }
            }
            None => {
                if source == i {
                    b.settle(x);
                }
                rows::put(x, 0..n, &mut b.input, 0);
            }
        }
        b.settle(x);
    }

    /// The branch whose saved input is that of branch i: norms of a parallel layer differ in gain
    /// and bias alone, so x, m and s are the same for all.
    fn source(&self, i: usize) -> usize {
        if self.parallel { 0 } else { i }
    }

    /// dx (N, D) before some branches, in place of that after them; `acts` are those of all.
    pub(super) fn backward(
        &self,
        branches: Range<usize>,
        dx: &mut Tensor,
        acts: &[BranchActs],
        back: &mut LayerBack,
        pass: &mut Pass,
    ) {
        // Branches that read the same x get the same dx.
        let groups: Vec<Range<usize>> = match self.parallel {
            true => vec![branches],
            false => branches.rev().map(|i| i..i + 1).collect(),
        };
        let LayerBack { body: buffers, du, dy, rounded: buffer } = back;
        for group in groups {
            for i in group.clone() {
                let branch = &self.branches[i];
                let dy = match branch.adds_as_it_is() {
                    true => &*dx,
                    false => {
                        dy.copy_from(dx);
                        branch.backward_of_adding(dy, &acts[i].output);
                        &*dy
                    }
                };
                branch.body.close_backward(rounded(dy, buffer), buffers, pass);
            }
            for i in group {
                let Branch { pre, body, .. } = &self.branches[i];
                let [n, d] = dx.dims();
                du.set_shape([n, d]);
                body.open_backward(&acts[i], buffers, du, pass);
                match pre {
                    Some(norm) => norm::backward(du, norm, &acts[self.source(i)].input, dx),
                    None => rows::add(dx, du),
                }
            }
        }
    }

    /// Bytes a token takes in some branches, on a stream of width D.
    pub(super) fn bytes_a_token(
        &self,
        branches: Range<usize>,
        d: usize,
        size: ElementBytes,
    ) -> TokenBytes {
        let branch = |i: usize| {
            let Branch { pre, body, post, .. } = &self.branches[i];
            let inputs = usize::from(pre.is_some() && self.source(i) == i);
            let outputs = usize::from(post.is_some());
            let saved = size.wide * (d + 2) * (inputs + outputs);
            body.bytes_a_token(size) + TokenBytes { saved, ..TokenBytes::default() }
        };
        // All branches whose output is changed before it is added share its gradient.
        let changed = branches.clone().any(|i| !self.branches[i].adds_as_it_is());
        let backward = if changed { size.wide * d } else { 0 };
        let shared = TokenBytes { backward, ..TokenBytes::default() };
        branches.map(branch).fold(shared, |all, branch| all + branch)
    }
}
