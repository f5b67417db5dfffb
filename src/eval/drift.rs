//! How a model takes ordinary text: perplexity, and what an edit moved everywhere.
//!
//! ```text
//! text.perplexity            exp(−(1/n) Σ ln p(x_t | x_<t))          n predicted tokens
//! drift.argmax               share of the n places whose likeliest token is another
//! drift.kl                   (1/n) Σ_t KL(before ‖ after)
//! drift.perplexity_ratio     perplexity after / before
//! ```
//!
//! A document is a line; one longer than the model's context is cut into windows. The interval
//! draws documents: tokens of one are not independent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::interval::{Column, Interval, TWO_SIDED, bootstrap};
use super::results::Summary;
use crate::base::Result;
use crate::model::divergence::divergence;
use crate::model::{Batch, LanguageModel};
use crate::ops::linear::BATCH_INVARIANT_ROWS;

/// Tokens whose logits are there at once.
const WINDOW: usize = 512;

/// Sums over a document's places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DocumentResult {
    /// n: its tokens but the first.
    pub tokens: usize,
    /// Places whose likeliest token is another.
    pub changed: usize,
    /// Σ KL in nats.
    pub kl: f64,
    /// −Σ ln p before and after.
    pub nll: [f64; 2],
}

/// Of one document's tokens, in windows that fit the model.
///
/// # Errors
///
/// A device that is out of memory.
pub fn document(
    before: &dyn LanguageModel,
    after: &dyn LanguageModel,
    ids: &[u32],
) -> Result<DocumentResult> {
    let mut sums = DocumentResult::default();
    for window in ids.chunks(WINDOW.min(before.arch().max_positions)) {
        let Some(predicting) = window.len().checked_sub(1).filter(|&n| n > 0) else { continue };
        let mut batch = Batch::whole([&window[..predicting]]);
        batch.fill(BATCH_INVARIANT_ROWS);
        let rows: Vec<_> = (0..predicting).map(|t| (t, Some(window[t + 1]))).collect();
        for at in divergence(before, after, &batch, &rows)? {
            sums.tokens += 1;
            sums.changed += usize::from(at.says[0] != at.says[1]);
            sums.kl += at.kl;
            let [p, q] = at.log_p.expect("each place has a next token");
            sums.nll = [sums.nll[0] - p, sums.nll[1] - q];
        }
    }
    Ok(sums)
}

/// What is shown of a metric of text.
struct Shown {
    name: &'static str,
    definition: &'static str,
    /// Of the means over documents of tokens, changed, KL, and nll before and after.
    of: fn(&[f64]) -> f64,
    /// The same of the unedited model.
    before: fn(&[f64]) -> f64,
}

const SHOWN: [Shown; 4] = [
    Shown {
        name: "text.perplexity",
        definition: "exp of the mean negative log-probability of a token",
        of: |m| (m[4] / m[0]).exp(),
        before: |m| (m[3] / m[0]).exp(),
    },
    Shown {
        name: "drift.argmax",
        definition: "percent of places in the text whose likeliest token is another than before",
        of: |m| 100.0 * m[1] / m[0],
        before: |_| 0.0,
    },
    Shown {
        name: "drift.kl",
        definition: "mean KL(before ‖ after) of the next token, in nats",
        of: |m| m[2] / m[0],
        before: |_| 0.0,
    },
    Shown {
        name: "drift.perplexity_ratio",
        definition: "perplexity after the edit over that before",
        of: |m| ((m[4] - m[3]) / m[0]).exp(),
        before: |_| 1.0,
    },
];

/// The summary of each metric; nothing where the documents have no token to predict.
pub fn summarise(documents: &[DocumentResult], seed: u64) -> BTreeMap<String, Summary> {
    let column = |of: fn(&DocumentResult) -> f64| -> Column {
        documents.iter().map(|document| Some(of(document))).collect()
    };
    let columns = [
        column(|d| d.tokens as f64),
        column(|d| d.changed as f64),
        column(|d| d.kl),
        column(|d| d.nll[0]),
        column(|d| d.nll[1]),
    ];
    let columns: Vec<&[Option<f64>]> = columns.iter().map(Vec::as_slice).collect();
    let sum = |column: &[Option<f64>]| column.iter().flatten().sum::<f64>();
    let sums: Vec<f64> = columns.iter().map(|column| sum(column)).collect();
    if sums[0] == 0.0 {
        return BTreeMap::new();
    }
    let summary = |shown: &Shown| {
        let Interval { low, high } = bootstrap(&columns, shown.of, TWO_SIDED, seed)?;
        let change = |m: &[f64]| (shown.of)(m) - (shown.before)(m);
        let of_change = bootstrap(&columns, change, TWO_SIDED, seed)?;
        Some((
            shown.name.to_owned(),
            Summary {
                mean: (shown.of)(&sums),
                low,
                high,
                before: (shown.before)(&sums),
                change: Some([change(&sums), of_change.low, of_change.high]),
                n: documents.len(),
                definition: shown.definition.to_owned(),
                comparable_group: None,
            },
        ))
    };
    SHOWN.iter().filter_map(summary).collect()
}
