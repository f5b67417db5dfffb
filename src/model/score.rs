//! How likely a model holds a text, and the value of a site at a token.

use std::ops::Range;

use super::batch::Batch;
use super::cache::Past;
use super::language_model::LanguageModel;
use super::site::{NoHook, Site, Tap};
use crate::base::Result;
use crate::ops::attention::Seq;
use crate::ops::{loss, sample};
use crate::tensor::Tensor;

/// A text whose last tokens, the candidate, are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The prompt's tokens and then the candidate's.
    pub ids: Vec<u32>,
    /// How many of them are the candidate's.
    pub candidate: usize,
}

/// How a model takes a candidate, token by token, each after those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// ln p of each token.
    pub log_p: Vec<f64>,
    /// The first token that greedy decoding would not take; `None` where it says the candidate.
    pub missed: Option<Missed>,
}

/// Where greedy decoding leaves a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which of the candidate's tokens, from 0.
    pub at: usize,
    /// What it says there; `None` where logits are not finite.
    pub says: Option<u32>,
}

impl Score {
    /// p of the whole candidate: the product over its tokens.
    pub fn probability(&self) -> f64 {
        self.log_p.iter().sum::<f64>().exp()
    }

    /// p of its least likely token.
    pub fn least(&self) -> f64 {
        match self.log_p.iter().any(|p| p.is_nan()) {
            true => f64::NAN,
            false => self.log_p.iter().copied().fold(0.0, f64::min).exp(),
        }
    }
}

/// How a model takes each candidate. The prompt before one has at least one token.
///
/// # Errors
///
/// A device that is out of memory.
pub fn score(model: &dyn LanguageModel, texts: &[Completion]) -> Result<Vec<Score>> {
    // The token before a candidate's token predicts it; the prediction of the last is unused.
    let mut batch = Batch::whole(texts.iter().map(|t| &t.ids[..t.ids.len() - 1]));
    let predicting = |(t, s): (&Completion, &Seq)| s.rows.end - t.candidate..s.rows.end;
    let predicting: Vec<Range<usize>> = texts.iter().zip(&batch.seqs).map(predicting).collect();
    predicting.iter().enumerate().for_each(|(s, rows)| batch.set_prompt_end(s, rows.start));
    let chosen: Vec<usize> = predicting.into_iter().flatten().collect();
    let (logits, logp) = model.compute().run(|| {
        let logits = model.run(&batch, &mut Past::None, &chosen, &mut NoHook)?;
        let all: Vec<usize> = (0..chosen.len()).collect();
        let mut logp = Tensor::zeros(model.compute(), &[all.len(), model.arch().vocabulary]);
        loss::log_softmax(&logits, &all, &mut logp);
        Ok((logits.into_host(), logp.into_host()))
    })?;
    let mut row = 0;
    let score = |t: &Completion| {
        let mut score = Score { log_p: Vec::with_capacity(t.candidate), missed: None };
        for (at, &id) in t.ids[t.ids.len() - t.candidate..].iter().enumerate() {
            score.log_p.push(logp.row_f64(row)[id as usize]);
            if score.missed.is_none() {
                let says = sample::likeliest(&logits.row_f64(row));
                score.missed = (says != Some(id)).then_some(Missed { at, says });
            }
            row += 1;
        }
        score
    };
    Ok(texts.iter().map(score).collect())
}

/// Natural log of the per-token geometric mean probability of each candidate: −nll(o) of
/// CounterFact's metrics. The prompt before a candidate has at least one token.
///
/// # Errors
///
/// As [`score`].
pub fn log_probability(model: &dyn LanguageModel, texts: &[Completion]) -> Result<Vec<f64>> {
    let mean = |s: &Score| s.log_p.iter().sum::<f64>() / s.log_p.len() as f64;
    Ok(score(model, texts)?.iter().map(mean).collect())
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
