//! The probability of a text, and the value of a site at a token.

use super::batch::Batch;
use super::decoder::{Past, Run};
use super::model::Model;
use super::site::Site;
use crate::base::Result;
use crate::ops::attention::Seq;
use crate::ops::loss;
use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// A text whose last tokens, the candidate, are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The prompt's tokens and then the candidate's.
    pub ids: Vec<u32>,
    /// How many of them are the candidate's.
    pub candidate: usize,
}

impl Model {
    /// Natural log of the per-token geometric mean probability of each candidate: −nll(o) of
    /// CounterFact's metrics. The prompt before a candidate has at least one token.
    ///
    /// # Errors
    ///
    /// A device that is out of memory.
    pub fn log_probability(&self, texts: &[Completion]) -> Result<Vec<f64>> {
        // The token before a candidate's token predicts it; the prediction of the last is unused.
        let batch = Batch::whole(texts.iter().map(|t| &t.ids[..t.ids.len() - 1]));
        let predicting = |(t, s): (&Completion, &Seq)| s.rows.end - t.candidate..s.rows.end;
        let chosen: Vec<usize> = texts.iter().zip(&batch.seqs).flat_map(predicting).collect();
        let logp = self.compute.run(|| {
            let logits = self.compute_logits(&batch, Past::None, &chosen);
            let all: Vec<usize> = (0..chosen.len()).collect();
            let mut logp = Tensor::zeros(&self.compute, &[all.len(), self.arch.vocabulary]);
            loss::log_softmax(&logits, &all, &mut logp);
            Ok(logp.into_host())
        })?;
        let mut row = 0;
        let mean = |t: &Completion| {
            let candidate = &t.ids[t.ids.len() - t.candidate..];
            let sum: f64 = candidate
                .iter()
                .map(|&id| {
                    row += 1;
                    logp.row_f64(row - 1)[id as usize]
                })
                .sum();
            sum / t.candidate as f64
        };
        Ok(texts.iter().map(mean).collect())
    }

    /// The tensor at a site at the last token of each text, on the host: (texts, F) or (texts, D).
    /// The pass ends after the site's layer.
    ///
    /// # Errors
    ///
    /// A device that is out of memory.
    pub fn read(&self, texts: &[&[u32]], site: Site) -> Result<Tensor> {
        let batch = Batch::whole(texts);
        let chosen: Vec<usize> = batch.seqs.iter().map(|s| s.rows.end - 1).collect();
        self.compute.run(|| {
            let chosen = Index::new(&self.compute, chosen);
            let mut out = Tensor::zeros(&self.compute, &[0, 0]);
            let mut x = self.embed(&batch);
            let mut run = Run::new(self);
            let mut hook = |at: Site, t: &mut Tensor| {
                if at == site {
                    let [_, width] = t.dims();
                    out = t.like(&[chosen.len(), width]);
                    rows::gather(t, &chosen, &mut out);
                }
            };
            self.forward(&batch, 0..site.layer + 1, Past::None, &mut x, &mut run, &mut hook);
            Ok(out.into_host())
        })
    }
}
