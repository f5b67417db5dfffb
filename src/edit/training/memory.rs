//! What training takes, counted before it runs.
//!
//! ```text
//! matrices   W, m, v and dW of each, in the type that is computed in; and where it began, if bound
//! copies     of the matrices on the host, in f64: one while it is kept or read, with its f32, and
//!            all at the end. Counted with the matrices where these are there too
//! stream     D numbers a token of all texts, where what lies below is kept
//! a token    what layers above keep for backward, and the buffers of a pass; what matrices read
//! fixed      rows of logits that are held at a time
//! ```

use super::texts::TrainingText;
use crate::edit::search::memory::max_tokens;
use crate::model::gradients::MatrixGradients;
use crate::model::{MatrixId, Model, Position};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::weight_gradient::PIECE;
use crate::train::head::LOGIT_ROWS;

/// Bytes of training, and what they decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingMemory {
    /// Of the matrices, and of their copies on the host.
    pub matrices: u64,
    /// Of the stream that enters the lowest of them, of all texts.
    pub stream: u64,
    /// Of a token in a pass.
    pub token: u64,
    /// Of rows of logits.
    pub fixed: u64,
    /// Whether the stream is kept.
    pub keeps: bool,
    /// Tokens of a pass, at most.
    pub most: usize,
    /// Floating-point operations of an epoch, and once before the first.
    pub flop: [f64; 2],
}

impl TrainingMemory {
    /// Of some matrices on texts, in `room` bytes.
    pub fn new(
        model: &Model,
        ids: &[MatrixId],
        texts: &[TrainingText],
        bound: bool,
        room: u64,
    ) -> TrainingMemory {
        let a = &model.arch;
        let wide = model.compute.precision().size();
        let sizes = ids.iter().map(|&id| model.matrix(id).weights());
        let (elements, largest): (usize, usize) = (sizes.clone().sum(), sizes.max().unwrap_or(0));
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        let rows: usize = texts.iter().map(|text| text.wanted.len()).sum();
        let begin = MatrixGradients::begin_of(model, ids);
        let above = begin..Position::before(a.layers);
        let pass = model.bytes_a_token(above.clone(), &model.compute);
        let once = model.bytes_a_token(Position::before(0)..begin, &model.compute);
        let saved = match model.offloads_weights() {
            true => (a.layers - begin.layer) * wide * a.width + pass.largest,
            false => pass.saved,
        };
        let read = MatrixGradients::bytes_a_token(model, ids);
        let token = saved + pass.forward + pass.backward + read + once.largest + once.forward;
        let copies = match model.compute.engine() {
            None => (8 * elements).max(12 * largest),
            Some(_) => 0,
        };
        let matrices = ((4 + usize::from(bound)) * elements * wide + copies) as u64;
        let stream = (tokens * a.width * wide) as u64;
        let rows_at_once = rows.clamp(BATCH_INVARIANT_ROWS, LOGIT_ROWS);
        let fixed = (rows_at_once * wide * (a.vocabulary + 5 * a.width)) as u64;
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        // The last text of a pass, and what its first piece holds before it.
        let least = (longest + PIECE - 1).min(tokens.max(1));
        let left = room.saturating_sub(matrices + fixed);
        let keeps = stream.saturating_add((least * token) as u64) <= left;
        let left = left - if keeps { stream } else { 0 };
        let most = (left / token as u64).min(max_tokens(model) as u64) as usize;
        let most = most.max(least);
        // Forward and backward are 2 a weight and token each, a gradient of a matrix 2 more.
        let weights = |layers: std::ops::Range<usize>| -> f64 {
            layers.map(|l| model.weights_of_layer(l) as f64).sum()
        };
        let below = 2.0 * weights(0..begin.layer) * tokens as f64;
        let head = 4.0 * (a.vocabulary * a.width * rows) as f64;
        let trained = 4.0 * weights(begin.layer..a.layers) + 2.0 * elements as f64;
        let epoch = trained * tokens as f64 + head;
        let flop = if keeps { [epoch, below] } else { [epoch + below, 0.0] };
        TrainingMemory { matrices, stream, token: token as u64, fixed, keeps, most, flop }
    }
}
