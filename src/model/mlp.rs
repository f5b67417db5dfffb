//! The MLP: its weights, forward, backward, and the bytes a token takes in it.
//!
//! ```text
//! k = act(up(u))                  u (N, D), what the branch reads of the stream
//! k = act(gate(u)) ∘ up(u)        where the family has a gate; element by element
//! y = down(k)                     k (N, F) is the key of an edit, y (N, D) the value
//! ```
//!
//! Backward reads the same lines from the bottom up.

use super::matrix::{Linear, Matrix};
use super::pass::Pass;
use super::site::At::{Input, Output};
use super::token_bytes::{ElementBytes, TokenBytes};
use crate::ops::act::{self, Act};
use crate::tensor::{Compute, Tensor};

/// The MLP's weights.
#[derive(Clone)]
pub struct Mlp {
    /// (F, D), in gated MLPs.
    pub gate: Option<Linear>,
    /// (F, D).
    pub up: Linear,
    /// (D, F): the matrix that edits change.
    pub down: Linear,
    /// The activation.
    pub act: Act,
}

/// What backward reads.
pub(super) struct MlpActs {
    up: Tensor,   // (N, F), before the activation, or beside a gate
    gate: Tensor, // (N, F), before the activation; empty where there is no gate
}

impl MlpActs {
    /// Without rows.
    pub fn new(compute: &Compute) -> MlpActs {
        let narrow = || Tensor::narrow(compute, &[0, 0]);
        MlpActs { up: narrow(), gate: narrow() }
    }
}

/// The buffers of a pass backward.
pub(super) struct MlpBack {
    dk: Tensor,    // (N, F), then that of up's output
    dgate: Tensor, // (N, F); empty where there is no gate
}

impl MlpBack {
    /// Without rows.
    pub fn new(compute: &Compute) -> MlpBack {
        let narrow = || Tensor::narrow(compute, &[0, 0]);
        MlpBack { dk: narrow(), dgate: narrow() }
    }
}

impl Mlp {
    /// Its matrices.
    pub fn matrices(&self) -> impl Iterator<Item = (Matrix, &Linear)> {
        let gate = self.gate.iter().map(|gate| (Matrix::Gate, gate));
        gate.chain([(Matrix::Up, &self.up), (Matrix::Down, &self.down)])
    }

    /// The same on another device.
    pub(super) fn on(&self, compute: &Compute) -> Mlp {
        Mlp {
            gate: self.gate.as_ref().map(|gate| gate.on(compute)),
            up: self.up.on(compute),
            down: self.down.on(compute),
            act: self.act,
        }
    }

    /// What backward reads, from u (N, D), which a hook may change.
    pub(super) fn open(&self, u: &mut Tensor, acts: &mut MlpActs, pass: &mut Pass) {
        let n = u.shape()[0];
        for (matrix, _) in self.matrices().filter(|(matrix, _)| *matrix != Matrix::Down) {
            pass.show(Input(matrix), u);
        }
        let gate = self.gate.as_ref().map(|gate| (Matrix::Gate, gate, &mut acts.gate));
        for (matrix, w, y) in [(Matrix::Up, &self.up, &mut acts.up)].into_iter().chain(gate) {
            y.set_shape([n, w.out()]);
            w.forward(u, y);
            pass.show(Output(matrix), y);
        }
    }

    /// k (N, F) and y (N, D).
    pub(super) fn close(&self, acts: &MlpActs, k: &mut Tensor, y: &mut Tensor, pass: &mut Pass) {
        k.set_shape([acts.up.shape()[0], self.up.out()]);
        act::forward(self.act, &acts.up, self.gate.as_ref().map(|_| &acts.gate), k);
        pass.show(Input(Matrix::Down), k);
        self.down.forward(k, y);
        pass.show(Output(Matrix::Down), y);
    }

    /// Backward of [`close`](Mlp::close) up to the key: dk, from dy (N, D).
    pub(super) fn close_backward(&self, dy: &Tensor, back: &mut MlpBack, pass: &mut Pass) {
        pass.show_gradient(Output(Matrix::Down), dy);
        back.dk.set_shape([dy.shape()[0], self.down.inner()]);
        self.down.backward(dy, &mut back.dk, false);
        pass.show_gradient(Input(Matrix::Down), &back.dk);
    }

    /// Backward of the rest: du (N, D), from dk.
    pub(super) fn open_backward(
        &self,
        acts: &MlpActs,
        back: &mut MlpBack,
        du: &mut Tensor,
        pass: &mut Pass,
    ) {
        let MlpBack { dk, dgate } = back;
        let gated = self.gate.as_ref().map(|gate| {
            dgate.set_shape([du.shape()[0], gate.out()]);
            (gate, &acts.gate)
        });
        act::backward(self.act, &acts.up, gated.map(|(_, acts)| (acts, &mut *dgate)), dk);
        let gate = self.gate.as_ref().map(|gate| (Matrix::Gate, gate, &*dgate));
        for (matrix, w, dy) in [(Matrix::Up, &self.up, &*dk)].into_iter().chain(gate) {
            pass.show_gradient(Output(matrix), dy);
            w.backward(dy, du, matrix != Matrix::Up);
        }
        for (matrix, _) in self.matrices().filter(|(matrix, _)| *matrix != Matrix::Down) {
            pass.show_gradient(Input(matrix), du);
        }
    }

    /// Bytes a token takes.
    pub(super) fn bytes_a_token(&self, size: ElementBytes) -> TokenBytes {
        let inner = size.narrow * self.up.out();
        let gate = self.gate.as_ref().map_or(0, |gate| size.narrow * gate.out());
        let [saved, backward] = [inner + gate; 2];
        TokenBytes { saved, forward: inner, backward, ..TokenBytes::default() }
    }
}
