//! How a model takes given words after a text, and the value of a site at a token.
//!
//! ```text
//! log p_i = z_y − ln Σ exp z      of label y_i, from the logits z of the token before it, in f64
//! ```
//!
//! Texts of one unit (a record's prompts, a prompt's targets) that begin alike are cut at
//! shared tokens (`shared.rs`), which run once. Which texts share is decided within a unit, so
//! a score does not depend on the units beside it.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::batch::Batch;
use super::cache::{KvCache, Past};
use super::completion::Completion;
use super::language_model::LanguageModel;
use super::shared::{Group, groups};
use super::site::{NoHook, Site, Tap};
use crate::base::Result;
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::sample;
use crate::tensor::Tensor;

/// Logits that are on the host at a time, in rows.
pub const ROWS: usize = 64;

/// How a model takes a completion, token by token, each after those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// One a label.
    pub tokens: Vec<TokenScore>,
}

/// How a model takes one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// The token asked for.
    pub label: u32,
    /// Its ln p.
    pub log_p: f64,
    /// The likeliest token there; `None` where logits are not finite.
    pub says: Option<u32>,
}

/// Where greedy decoding leaves a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which of the candidate's tokens, from 0.
    pub at: usize,
    /// What it says there; `None` where logits are not finite.
    pub says: Option<u32>,
}

impl TokenScore {
    /// Whether greedy decoding says the token.
    pub fn is_hit(&self) -> bool {
        self.says == Some(self.label)
    }
}

impl Score {
    /// p of the whole candidate: the product over its tokens.
    pub fn probability(&self) -> f64 {
        self.log_p().sum::<f64>().exp()
    }

    /// p of its least likely token.
    pub fn least(&self) -> f64 {
        match self.log_p().any(f64::is_nan) {
            true => f64::NAN,
            false => self.log_p().fold(0.0, f64::min).exp(),
        }
    }

    /// nll(o) of CounterFact's metrics: −ln of the geometric mean of p over its tokens.
    pub fn nll(&self) -> f64 {
        -self.log_p().sum::<f64>() / self.tokens.len() as f64
    }

    /// The first token that greedy decoding would not take; `None` where it says the candidate.
    pub fn missed(&self) -> Option<Missed> {
        let at = self.tokens.iter().position(|token| !token.is_hit())?;
        Some(Missed { at, says: self.tokens[at].says })
    }

    fn log_p(&self) -> impl Iterator<Item = f64> {
        self.tokens.iter().map(|token| token.log_p)
    }
}

/// How a model takes each text, none of which shares anything.
///
/// # Errors
///
/// A device that is out of memory.
pub fn score(model: &dyn LanguageModel, texts: &[Completion]) -> Result<Vec<Score>> {
    let each: Vec<&[Completion]> = texts.iter().map(std::slice::from_ref).collect();
    Ok(score_units(model, &each)?.into_iter().flatten().collect())
}

/// How a model takes each text of each unit, in one batch.
///
/// # Errors
///
/// A device that is out of memory.
pub fn score_units(model: &dyn LanguageModel, units: &[&[Completion]]) -> Result<Vec<Vec<Score>>> {
    let texts: Vec<&Completion> = units.iter().copied().flatten().collect();
    let mut all = Vec::new(); // groups, by the numbers of all texts
    let mut first = 0;
    for unit in units {
        let own =
            groups(unit, model.whole_prompts()).into_iter().map(|group| group.numbered_from(first));
        all.extend(own);
        first += unit.len();
    }
    let mut scores = Pass::default();
    scores.run(model, &texts, &all)?;
    let mut scores = texts.iter().enumerate().map(|(t, text)| {
        let token = |(i, &label)| {
            let (log_p, says) = scores.found[&(t, i)];
            TokenScore { label, log_p, says }
        };
        Score { tokens: text.labels.iter().enumerate().map(token).collect() }
    });
    Ok(units.iter().map(|unit| scores.by_ref().take(unit.len()).collect()).collect())
}

/// (text, label), and how the model takes it.
#[derive(Default)]
struct Pass {
    found: BTreeMap<(usize, usize), (f64, Option<u32>)>,
}

impl Pass {
    /// Runs what groups share, and then what each text has of its own.
    fn run(
        &mut self,
        model: &dyn LanguageModel,
        texts: &[&Completion],
        groups: &[Group],
    ) -> Result<()> {
        let mut begun = Batch::default();
        let mut ends = Batch::default();
        let mut wanted = [(); 2].map(|()| BTreeMap::<usize, Vec<(usize, usize)>>::new());
        for group in groups {
            let shared = group.shared;
            let text = texts[group.texts[0]];
            let rows = begun.push(&text.read[..shared], 0..0);
            let end = text.prompt() - 1;
            // Where the prompts go on, each ends among a text's own rows.
            begun.set_prompt_end(begun.seqs.len() - 1, (end < shared).then(|| rows.start + end));
            for &t in &group.texts {
                let text = texts[t];
                let own = match text.read.len() > shared {
                    true => ends.push(&text.read[shared..], rows.clone()),
                    false => 0..0,
                };
                if !own.is_empty() && text.prompt() > shared {
                    let row = own.start + text.prompt() - 1 - shared;
                    ends.set_prompt_end(ends.seqs.len() - 1, Some(row));
                }
                for (i, row) in text.predicting().enumerate() {
                    let (pass, row) = match row.checked_sub(shared) {
                        None => (0, rows.start + row),
                        Some(row) => (1, own.start + row),
                    };
                    wanted[pass].entry(row).or_default().push((t, i));
                }
            }
        }
        let [begun_rows, ends_rows] = wanted;
        let mut cache = match ends.is_empty() {
            true => None,
            false => Some(model.compute().run(|| Ok(KvCache::new(model.arch(), model.compute())))?),
        };
        let past = cache.as_mut().map_or(Past::None, Past::Grow);
        self.read(model, begun, past, texts, &begun_rows)?;
        match &cache {
            None => Ok(()),
            Some(cache) => self.read(model, ends, Past::Read(cache), texts, &ends_rows),
        }
    }

    /// Runs a batch and reads its rows for the labels wanted of them.
    fn read(
        &mut self,
        model: &dyn LanguageModel,
        mut batch: Batch,
        mut past: Past,
        texts: &[&Completion],
        wanted: &BTreeMap<usize, Vec<(usize, usize)>>,
    ) -> Result<()> {
        batch.fill(BATCH_INVARIANT_ROWS);
        let rows = filled(wanted.keys().copied().collect());
        let mut labels = wanted.values();
        model.run_in_chunks(&batch, &mut past, (&rows, ROWS), &mut NoHook, &mut |z| {
            let z = model.compute().run(|| Ok(z.into_host()))?;
            let labels: Vec<_> = labels.by_ref().take(z.shape()[0]).collect();
            let found: Vec<_> = labels
                .par_iter()
                .enumerate()
                .flat_map_iter(|(row, labels)| {
                    let z = z.row_f64(row);
                    let (log_sum, says) = (log_sum_exp(&z), sample::likeliest(&z));
                    labels.iter().map(move |&(t, i)| {
                        ((t, i), (z[texts[t].labels[i] as usize] - log_sum, says))
                    })
                })
                .collect();
            self.found.extend(found);
            Ok(true)
        })
    }
}

/// Rows to be read [`ROWS`] at a time: the last is repeated, which nobody looks at, so that each
/// reading has so many that a row's logits do not depend on the others.
pub(super) fn filled(mut rows: Vec<usize>) -> Vec<usize> {
    const { assert!(BATCH_INVARIANT_ROWS <= ROWS) };
    let left = rows.len() % ROWS;
    let last = rows.last().copied().filter(|_| (1..BATCH_INVARIANT_ROWS).contains(&left));
    rows.extend(last.into_iter().cycle().take(BATCH_INVARIANT_ROWS.saturating_sub(left)));
    rows
}

/// ln Σ exp z, with the largest taken out first.
pub(super) fn log_sum_exp(z: &[f64]) -> f64 {
    let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + z.iter().map(|z| (z - most).exp()).sum::<f64>().ln()
}

/// The tensor at a site at the last token of each text, on the host: (texts, F) or (texts, D). The
/// pass ends after the site's layer.
///
/// # Errors
///
/// A device that is out of memory.
pub fn read(model: &dyn LanguageModel, texts: &[&[u32]], site: Site) -> Result<Tensor> {
    let batch = Batch::whole(texts);
    let chosen: Vec<usize> = batch.seqs.iter().map(|s| s.rows.end - 1).collect();
    model.compute().run(|| {
        let mut tap = Tap::new(model.compute(), vec![site], chosen);
        model.run(&batch, &mut Past::None, &[], &mut tap)?;
        Ok(tap.tensor(0).to_host().into_owned())
    })
}
