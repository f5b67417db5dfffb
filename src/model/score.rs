//! How likely a model finds a text, and what it holds at a site.

use super::batch::Batch;
use super::decoder::{Past, Run};
use super::load::Model;
use super::site::Site;
use crate::ops::attention::Seq;
use crate::ops::loss;
use crate::ops::rows::{self, Index};
use crate::tensor::Tensor;

/// A text whose last tokens are to be judged.
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
    pub fn log_probability(&self, texts: &[Completion]) -> Vec<f64> {
        // The token before a candidate's token predicts it; the last one predicts nothing we ask.
        let batch = Batch::whole(texts.iter().map(|t| &t.ids[..t.ids.len() - 1]));
        let read = |(t, s): (&Completion, &Seq)| s.rows.end - t.candidate..s.rows.end;
        let chosen: Vec<usize> = texts.iter().zip(&batch.seqs).flat_map(read).collect();
        let logits = self.logits(&batch, Past::None, &chosen);
        let all: Vec<usize> = (0..chosen.len()).collect();
        let mut logp = Tensor::zeros(&self.compute, &[all.len(), self.arch.vocabulary]);
        loss::log_softmax(&logits, &all, &mut logp);
        let logp = logp.to_host();
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
        texts.iter().map(mean).collect()
    }

    /// What `site` holds at the last token of each text: (texts, F) or (texts, D). Stops after its
    /// layer.
    pub fn read(&self, texts: &[&[u32]], site: Site) -> Tensor {
        let batch = Batch::whole(texts);
        let chosen: Vec<usize> = batch.seqs.iter().map(|s| s.rows.end - 1).collect();
        let chosen = Index::new(&self.compute, chosen);
        let mut out = Tensor::zeros(&self.compute, &[0, 0]);
        let mut x = self.embed(&batch);
        let mut run = Run::new(self);
        self.forward(&batch, 0..site.layer + 1, Past::None, &mut x, &mut run, &mut |at, t| {
            if at == site {
                let [_, width] = t.dims();
                out = t.like(&[chosen.len(), width]);
                rows::gather(t, &chosen, &mut out);
            }
        });
        out
    }
}
