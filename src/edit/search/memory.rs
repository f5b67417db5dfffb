//! How much memory a value search takes, counted before it runs.
//!
//! ```text
//! a fact    max(a step, its admission) + what is held between steps
//! a step    tokens · (saved of all its layers + forward + backward) + what is pushed, δ and its
//!           gradient; where weights are offloaded, saved of one layer only, and the stream of each
//! admission prefix · past + tokens · (saved of one layer + forward), in the type of the model
//! held      the stream, the prefix, ln p⁰, t₀ and Adam's moments
//! fixed     rows of logits that are held at a time, and the prefix that facts share
//! ```
//!
//! What a token takes in the layers is said beside each body ([`crate::model::token_bytes`]); here
//! is what [`super::objective`] holds too. Wide is the type of the stream, narrow that of what
//! products read (`Tensor::narrow`). Lists of rows, traces and tables of sequences are left out,
//! and arrays that grow hold somewhat more than they show.

use super::packing::{LOGIT_ROWS, shared_prefixes, suffix_tokens};
use super::settings::Push;
use crate::edit::prompts::FactRows;
use crate::model::Model;

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

/// Bytes a fact takes while it is searched; `shared` is how many tokens all facts share.
pub fn fact_bytes(model: &Model, push: &Push, rows: &FactRows, shared: usize) -> u64 {
    let a = &model.arch;
    let wide = model.compute.precision().size();
    let span = push.span(model);
    let once = model.bytes_a_token(0..push.layers(), &model.compute);
    let step = model.bytes_a_token(span, &model.search_compute());
    let tokens = suffix_tokens(rows);
    let before: usize = rows.by_kind().map(|row| row.lookup).sum();
    let own = before.saturating_sub(shared);
    // A value that a norm reads is held, and a step has it again, and what the norm saves.
    let normed = usize::from(push.norm(model).is_some());
    let held = wide
        * (tokens * a.width * (1 + normed) + a.vocabulary + 3 * push.vectors() * a.width)
        + own * step.past;
    let pushed_rows = rows.by_kind().count();
    let narrow = model.search_compute().narrow_size();
    let pushed = wide * a.width * (pushed_rows + 2 * push.vectors())
        + push.above * (wide + narrow) * a.width * pushed_rows;
    let saved = if model.offloads_weights() {
        span.layers().len() * wide * a.width + step.largest
    } else {
        step.saved
    };
    let value = normed * wide * (3 * a.width + 2);
    let step = tokens * (saved + step.forward + step.backward + value) + pushed;
    let admission = own * once.past + own.max(tokens) * (once.largest + once.forward);
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
    let past = 2 * model.bytes_a_token(0..push.layers(), &model.compute).past
        + model.bytes_a_token(push.layers_above(), &steps).past;
    (read * row + shared * past) as u64
}
