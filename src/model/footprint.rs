//! How much memory a value search takes, counted before it runs.
//!
//! ```text
//! a fact    max(a step, taking it in) + what stays between steps
//! a step    tokens · (layers · kept + pass + back) + what is pushed, δ and its gradient;
//!           of layers · kept only one, and the stream by layer, where weights come and go
//! taking in prefix · layers · past + tokens · (kept + pass), in the type of the model
//! stays     the stream, the prefix, ln p⁰, t₀ and Adam's moments
//! all       rows of logits that are held at a time, and the prefix that facts share
//! ```
//!
//! Counted in rows of what [`super::decoder`], [`super::backward`] and [`super::pushed`] hold; wide
//! is the type of the stream, narrow that of what products read (`Tensor::narrow`). Lists of rows,
//! traces and tables of sequences are left out, and arrays that grow hold somewhat more than they
//! show.

use super::arch::Positions;
use super::model::Model;
use super::pushed::{Problem, Push, READ};
use crate::tensor::Compute;
use crate::text::Rows;

/// Bytes a token takes in various places.
struct Token {
    kept: usize, // of a layer, for backward
    pass: usize, // of a pass forward, besides: the stream, and room to work in
    back: usize, // of a pass backward, besides: its gradient, and room to work in
    past: usize, // of a layer, as key and value
}

impl Token {
    fn of(model: &Model, compute: &Compute) -> Token {
        let a = &model.arch;
        let (wide, narrow) = (compute.precision().size(), compute.narrow_size());
        let (d, q, kv) = (a.width, a.q_width(), a.kv_width());
        let up = a.inner * (1 + usize::from(model.layers[0].gate.is_some()));
        let norms = (2 - usize::from(a.parallel)) * (d + 2);
        let head_norms = wide * 2 * (a.n_heads + a.n_kv_heads) + narrow * (q + kv);
        let angles = match &a.positions {
            Positions::Learned => 0,
            Positions::Rotary(r) => 2 * r.frequency.len(),
        };
        let rounded = if narrow < wide { d } else { 0 };
        Token {
            kept: wide * (norms + a.n_heads)
                + narrow * (q + 2 * kv + up)
                + if a.qk_norm { head_norms } else { 0 },
            pass: wide * (2 * d + angles) + narrow * (d + q + a.inner),
            back: wide * (2 * d + 2 * a.n_heads) + narrow * (2 * q + 2 * kv + up + rounded),
            past: narrow * 2 * kv,
        }
    }
}

impl Push {
    /// Bytes a fact takes while it is searched; `shared` is how many tokens all facts share.
    pub fn bytes(&self, model: &Model, rows: &Rows, shared: usize) -> u64 {
        let (a, wide) = (&model.arch, model.compute.precision().size());
        let (once, step) =
            (Token::of(model, &model.compute), Token::of(model, &model.search_compute()));
        let (tokens, kinds) = (Problem::tokens(rows), Problem::kinds(rows));
        let before: usize = kinds.iter().map(|row| row.lookup).sum();
        let own = before.saturating_sub(shared);
        let stays = wide * (tokens * a.width + a.vocabulary + 3 * self.vectors() * a.width)
            + own * self.above().len() * step.past;
        let pushed = wide * a.width * (kinds.len() + 2 * self.vectors());
        let layers = self.kept(model).len();
        let kept = match model.offloads_weights() {
            false => layers * step.kept,
            true => layers * wide * a.width + step.kept,
        };
        let step = tokens * (kept + step.pass + step.back) + pushed;
        let taken_in = own * self.layers() * once.past + own.max(tokens) * (once.kept + once.pass);
        (stays + step.max(taken_in)) as u64
    }

    /// Bytes a search of such facts takes besides, however many there are at a time; `shared` as
    /// above.
    pub fn bytes_besides<'a>(
        &self,
        model: &Model,
        facts: impl IntoIterator<Item = &'a Rows>,
        shared: usize,
    ) -> u64 {
        let (a, steps) = (&model.arch, model.search_compute());
        let (wide, narrow) = (steps.precision().size(), steps.narrow_size());
        let reads = |rows: &Rows| rows.rewriting.len() * rows.target.len() + 1;
        let read = facts.into_iter().map(reads).sum::<usize>().min(READ);
        let rounded = if narrow < wide { a.vocabulary } else { 0 };
        let row = wide * (a.vocabulary + 4 * a.width) + narrow * (rounded + a.width);
        // The model's own, a copy that facts are taken in with, and that of the steps.
        let past = 2 * self.layers() * Token::of(model, &model.compute).past
            + self.above().len() * Token::of(model, &steps).past;
        (read * row + shared * past) as u64
    }
}
