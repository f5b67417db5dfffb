//! How the rows of many facts lie in one batch, and what is read of them. No model is needed here.
//!
//! A row is cut into three: the tokens that all facts share, the fact's own tokens before the
//! lookup token, and the suffix from the lookup token on. The first two are run once, into a cache:
//!
//! ```text
//! cache rows    shared | own tokens of fact 0, row by row | … of fact 1 | …
//! batch rows    suffixes of fact 0, row by row | … of fact 1 | … | filling up to `least` rows
//! logit rows    of fact 0: KL row, T of each rewriting row | … of fact 1 | … | filling
//! ```
//!
//! Rows of a fact come by kind: the KL row, then a rewriting row a context.

use std::ops::Range;

use crate::edit::prompts::{FactRows, PromptRow};
use crate::model::Batch;
use crate::model::prefix::common_prefixes;
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::loss::RowLoss;

/// Rows of logits held at a time.
pub const LOGIT_ROWS: usize = 256;

/// A row from its lookup token on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suffix {
    /// The tokens; of the KL row the lookup token alone.
    pub ids: Vec<u32>,
    /// How many of the fact's own tokens are in the cache before them.
    pub own_prefix: usize,
}

/// What a step runs of a fact, and what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFact {
    /// By kind.
    pub suffixes: Vec<Suffix>,
    /// The target's tokens.
    pub target: Vec<u32>,
}

/// Each row's tokens from the lookup token on; of the KL row that one alone.
fn suffixes(rows: &FactRows) -> impl Iterator<Item = (&PromptRow, &[u32])> {
    rows.by_kind().enumerate().map(|(kind, row)| {
        let end = if kind == 0 { row.lookup + 1 } else { row.ids.len() };
        (row, &row.ids[row.lookup..end])
    })
}

/// Tokens of a fact that a step runs.
pub fn suffix_tokens(rows: &FactRows) -> usize {
    suffixes(rows).map(|(_, ids)| ids.len()).sum()
}

/// What the rows of facts have in common, by kind.
pub fn shared_prefixes<'a>(facts: impl IntoIterator<Item = &'a FactRows>) -> Vec<Vec<u32>> {
    common_prefixes(facts.into_iter().map(|rows| rows.by_kind().map(PromptRow::before_lookup)))
}

impl PackedFact {
    /// Of rows that begin with as many `shared` cache rows by kind.
    pub fn new(rows: &FactRows, shared: &[Range<usize>]) -> PackedFact {
        let suffix = |((row, ids), shared): ((&PromptRow, &[u32]), &Range<usize>)| Suffix {
            ids: ids.to_vec(),
            own_prefix: row.lookup - shared.len(),
        };
        PackedFact {
            suffixes: suffixes(rows).zip(shared).map(suffix).collect(),
            target: rows.target.clone(),
        }
    }

    /// Tokens that a step runs.
    pub fn tokens(&self) -> usize {
        self.suffixes.iter().map(|suffix| suffix.ids.len()).sum()
    }

    /// Its own rows of the cache.
    pub fn own_prefix(&self) -> usize {
        self.suffixes.iter().map(|suffix| suffix.own_prefix).sum()
    }
}

/// The fact's own tokens before each lookup token as sequences of a batch, fact by fact, each after
/// its shared cache rows.
pub fn own_prefixes<'a>(
    facts: impl IntoIterator<Item = &'a FactRows>,
    shared: &[Range<usize>],
) -> Batch {
    let mut batch = Batch::default();
    for rows in facts {
        for (row, shared) in rows.by_kind().zip(shared) {
            batch.push_after(&row.before_lookup()[shared.len()..], [shared.clone(), 0..0]);
        }
    }
    batch
}

/// Where the rows of facts lie.
pub struct StepLayout {
    /// Their suffixes.
    pub batch: Batch,
    /// The sequences of each fact.
    pub sequences: Vec<Range<usize>>,
    /// Batch rows that δ is added to …
    pub pushed: Vec<usize>,
    /// … and the fact each belongs to.
    pub owner: Vec<usize>,
    /// The loss of each row of logits.
    pub losses: Vec<RowLoss>,
    /// The rows of logits of each fact.
    pub groups: Vec<Range<usize>>,
    /// The rows of logits in pieces of at most [`LOGIT_ROWS`].
    pub pieces: Vec<LogitPiece>,
}

/// Rows of logits that are held at a time.
pub struct LogitPiece {
    /// Which of all.
    pub rows: Range<usize>,
    /// The batch rows they are of; those behind the first `own` only fill the piece.
    pub read: Vec<usize>,
    /// How many have a loss.
    pub own: usize,
    /// KL rows of the piece, and the fact of each.
    pub kl: Vec<(usize, usize)>,
}

impl StepLayout {
    /// Of facts whose rows begin with the `shared` cache rows of their kinds. The batch and every
    /// piece have `least` rows or more.
    pub fn new(
        facts: &[PackedFact],
        shared: &[Range<usize>],
        kl_factor: f64,
        least: usize,
    ) -> StepLayout {
        let mut layout = StepLayout {
            batch: Batch::default(),
            sequences: Vec::new(),
            pushed: Vec::new(),
            owner: Vec::new(),
            losses: Vec::new(),
            groups: Vec::new(),
            pieces: Vec::new(),
        };
        let mut read = Vec::new(); // the batch row of each row of logits
        let mut cached = shared.last().map_or(0, |range| range.end);
        for (fact, packed) in facts.iter().enumerate() {
            let first_sequence = layout.batch.seqs.len();
            let first_loss = read.len();
            let contexts = packed.suffixes.len() - 1;
            let target = &packed.target;
            let weight = 1.0 / (target.len() * contexts) as f64;
            for (kind, suffix) in packed.suffixes.iter().enumerate() {
                let own = cached..cached + suffix.own_prefix;
                cached = own.end;
                let rows = layout.batch.push_after(&suffix.ids, [shared[kind].clone(), own]);
                layout.pushed.push(rows.start);
                layout.owner.push(fact);
                if kind == 0 {
                    read.push(rows.start);
                    layout.losses.push(RowLoss::Kl { reference: fact, weight: kl_factor });
                    continue;
                }
                // The token at the end of the row predicts the last target token, and so on back.
                read.extend(rows.end - target.len()..rows.end);
                let losses = target.iter().map(|&target| RowLoss::CrossEntropy { target, weight });
                layout.losses.extend(losses);
            }
            layout.sequences.push(first_sequence..layout.batch.seqs.len());
            layout.groups.push(first_loss..read.len());
        }
        layout.batch.fill(least);
        layout.pieces = pieces(&read, &mut layout.losses, least);
        layout
    }

    /// The batch rows of each fact's bare prompt at its lookup token.
    pub fn bare(&self) -> Vec<usize> {
        let bare = |sequences: &Range<usize>| {
            assert!(sequences.len() > 1, "a fact without a rewriting row");
            self.batch.seqs[sequences.start + 1].rows.start
        };
        self.sequences.iter().map(bare).collect()
    }
}

/// Rows of logits in pieces of at most [`LOGIT_ROWS`], and of at least `least`: rows that fill one
/// have no weight.
fn pieces(read: &[usize], losses: &mut Vec<RowLoss>, least: usize) -> Vec<LogitPiece> {
    const {
        assert!(
            2 * BATCH_INVARIANT_ROWS <= LOGIT_ROWS,
            "only a single piece is filled up, at its end"
        )
    };
    let n = read.len();
    let count = n.div_ceil(LOGIT_ROWS);
    let size = n.div_ceil(count.max(1)); // of all but the last, so that they reuse memory
    let piece = |i: usize| {
        let own = i * size..n.min((i + 1) * size);
        let mut rows = read[own.clone()].to_vec();
        rows.resize(rows.len().max(least), rows[0]);
        losses.resize(losses.len().max(least), RowLoss::CrossEntropy { target: 0, weight: 0.0 });
        let kl = losses[own.clone()].iter().enumerate().filter_map(|(row, loss)| match loss {
            RowLoss::Kl { reference, .. } => Some((row, *reference)),
            RowLoss::CrossEntropy { .. } => None,
        });
        LogitPiece {
            rows: own.start..own.start + rows.len(),
            kl: kl.collect(),
            own: own.len(),
            read: rows,
        }
    };
    (0..count).map(piece).collect()
}

/// The rows of the facts that are left when others leave.
#[derive(Debug, PartialEq, Eq)]
pub struct Retained {
    /// The facts.
    pub facts: Vec<usize>,
    /// Ranges of cache rows, the shared ones first.
    pub cache: Vec<Range<usize>>,
    /// Batch rows.
    pub tokens: Vec<usize>,
}

/// What is left where facts leave at which `keep` is false; the first `shared` rows of the cache
/// belong to all.
pub fn retained(facts: &[PackedFact], keep: &[bool], shared: usize) -> Retained {
    let mut left = Retained { facts: Vec::new(), cache: Vec::new(), tokens: Vec::new() };
    left.cache.push(0..shared);
    let (mut cached, mut token) = (shared, 0);
    for (i, fact) in facts.iter().enumerate() {
        let own = cached..cached + fact.own_prefix();
        let tokens = token..token + fact.tokens();
        (cached, token) = (own.end, tokens.end);
        if keep[i] {
            left.facts.push(i);
            left.cache.push(own);
            left.tokens.extend(tokens);
        }
    }
    left
}
