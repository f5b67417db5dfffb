//! How much memory a value search takes, counted before it runs.
//!
//! ```text
//! a fact    max(a step, its admission) + what is held between steps
//! a step    tokens · (layers · saved + pass + back) + what is pushed, δ and its gradient;
//!           where weights are offloaded, saved of one layer only, and the stream of each
//! admission prefix · layers · past + tokens · (saved + pass), in the type of the model
//! held      the stream, the prefix, ln p⁰, t₀ and Adam's moments
//! fixed     rows of logits that are held at a time, and the prefix that facts share
//! ```
//!
//! Counted in rows of what [`crate::model::decoder`], [`crate::model::backward`] and
//! [`super::objective`] hold; wide is the type of the stream, narrow that of what products read
//! (`Tensor::narrow`). Lists of rows, traces and tables of sequences are left out, and arrays that
//! grow hold somewhat more than they show.

use super::packing::{LOGIT_ROWS, shared_prefixes, suffix_tokens};
use super::settings::Push;
use crate::edit::prompts::FactRows;
use crate::model::Model;
use crate::model::arch::Positions;
use crate::tensor::Compute;

/// Bytes of a search of some facts.
pub struct SearchMemory {
    /// Of each fact while it is searched.
    pub facts: Vec<u64>,
    /// However many facts there are at a time.
    pub fixed_bytes: u64,
}

impl SearchMemory {
    /// Counted for a search of these facts.
    pub fn new<'a>(
        model: &Model,
        push: &Push,
        facts: impl IntoIterator<Item = &'a FactRows> + Clone,
    ) -> SearchMemory {
        let shared = shared_prefixes(facts.clone()).iter().map(Vec::len).sum();
        let fact = |rows| fact_bytes(model, push, rows, shared);
        SearchMemory {
            facts: facts.clone().into_iter().map(fact).collect(),
            fixed_bytes: fixed_bytes(model, push, facts, shared),
        }
    }

    /// All facts at a time.
    pub fn total(&self) -> u64 {
        self.facts.iter().sum::<u64>() + self.fixed_bytes
    }
}

/// Tokens searched at a time on a device, at most: more make no product faster, and facts would
/// wait for each other.
pub const DEVICE_TOKENS: usize = 8192;

/// Tokens searched at a time, at most.
pub fn max_tokens(model: &Model) -> usize {
    if model.compute.engine().is_some() { DEVICE_TOKENS } else { 4096 }
}

/// Bytes a token takes in various places.
struct TokenBytes {
    saved: usize, // of a layer, for backward
    pass: usize,  // of a pass forward without that: the stream, and buffers
    back: usize,  // of a pass backward: its gradient, and buffers
    past: usize,  // of a layer, as key and value
}

impl TokenBytes {
    fn new(model: &Model, compute: &Compute) -> TokenBytes {
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
        TokenBytes {
            saved: wide * (norms + a.n_heads)
                + narrow * (q + 2 * kv + up)
                + if a.qk_norm { head_norms } else { 0 },
            pass: wide * (2 * d + angles) + narrow * (d + q + a.inner),
            back: wide * (2 * d + 2 * a.n_heads) + narrow * (2 * q + 2 * kv + up + rounded),
            past: narrow * 2 * kv,
        }
    }
}

/// Bytes a fact takes while it is searched; `shared` is how many tokens all facts share.
pub fn fact_bytes(model: &Model, push: &Push, rows: &FactRows, shared: usize) -> u64 {
    let a = &model.arch;
    let wide = model.compute.precision().size();
    let once = TokenBytes::new(model, &model.compute);
    let step = TokenBytes::new(model, &model.search_compute());
    let tokens = suffix_tokens(rows);
    let before: usize = rows.by_kind().map(|row| row.lookup).sum();
    let own = before.saturating_sub(shared);
    let held = wide * (tokens * a.width + a.vocabulary + 3 * push.vectors() * a.width)
        + own * push.above().len() * step.past;
    let pushed = wide * a.width * (rows.by_kind().count() + 2 * push.vectors());
    let layers = push.saved_layers(model).len();
    let saved = if model.offloads_weights() {
        layers * wide * a.width + step.saved
    } else {
        layers * step.saved
    };
    let step = tokens * (saved + step.pass + step.back) + pushed;
    let admission = own * push.layers() * once.past + own.max(tokens) * (once.saved + once.pass);
    (held + step.max(admission)) as u64
}

/// Bytes a search of such facts takes however many there are at a time; `shared` as above.
fn fixed_bytes<'a>(
    model: &Model,
    push: &Push,
    facts: impl IntoIterator<Item = &'a FactRows>,
    shared: usize,
) -> u64 {
    let a = &model.arch;
    let steps = model.search_compute();
    let (wide, narrow) = (steps.precision().size(), steps.narrow_size());
    let logit_rows = |rows: &FactRows| rows.rewriting.len() * rows.target.len() + 1;
    let read = facts.into_iter().map(logit_rows).sum::<usize>().min(LOGIT_ROWS);
    let rounded = if narrow < wide { a.vocabulary } else { 0 };
    let row = wide * (a.vocabulary + 4 * a.width) + narrow * (rounded + a.width);
    // The model's own, a copy for admissions, and that of the steps.
    let past = 2 * push.layers() * TokenBytes::new(model, &model.compute).past
        + push.above().len() * TokenBytes::new(model, &steps).past;
    (read * row + shared * past) as u64
}
