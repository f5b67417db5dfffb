//! Text goes on token by token: greedy, or sampled with a seed, on a key/value cache.

use super::batch::Batch;
use super::cache::Cache;
use super::decoder::Past;
use super::load::Model;
use crate::base::{Error, Result, Rng, rescue};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; 1 samples from the model's own distribution.
    pub temperature: f64,
    /// Only the k likeliest tokens take part; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability take part; 1 for all.
    pub top_p: f64,
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };

    /// One token from logits (V).
    pub fn choose(&self, logits: &[f64], rng: &mut Rng) -> u32 {
        // Ties go to the lower id, as arg-max does elsewhere.
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let likelier = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
        if self.temperature == 0.0 {
            return order.into_iter().min_by(likelier).expect("a vocabulary") as u32;
        }
        if self.top_k > 0 && self.top_k < order.len() {
            order.select_nth_unstable_by(self.top_k - 1, likelier);
            order.truncate(self.top_k);
        }
        order.sort_unstable_by(likelier);
        let top = logits[order[0]];
        let mut weights: Vec<f64> =
            order.iter().map(|&i| ((logits[i] - top) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let keep = weights.iter().take_while(|&&w| {
            let taken = reached < self.top_p * total;
            reached += w;
            taken
        });
        let keep = keep.count().max(1);
        weights.truncate(keep);
        let mut left = rng.uniform() * weights.iter().sum::<f64>();
        for (&i, w) in order.iter().zip(&weights) {
            left -= w;
            if left < 0.0 {
                return i as u32;
            }
        }
        order[keep - 1] as u32
    }
}

impl Model {
    /// Up to `most` tokens after `prompt`, ending before one of `stop`. `each` sees every token as
    /// it comes and may end the text by returning false.
    ///
    /// # Errors
    ///
    /// A prompt without tokens, longer than the model's context, or with a token that is not in
    /// its vocabulary; logits that are not finite; a device without room.
    pub fn generate(
        &self,
        prompt: &[u32],
        most: usize,
        sampling: Sampling,
        rng: &mut Rng,
        stop: &[u32],
        each: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Vec<u32>> {
        rescue(|| self.go_on(prompt, most, sampling, rng, stop, each))
    }

    fn go_on(
        &self,
        prompt: &[u32],
        most: usize,
        sampling: Sampling,
        rng: &mut Rng,
        stop: &[u32],
        each: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Vec<u32>> {
        self.check(prompt)?;
        if prompt.is_empty() {
            return Err(Error::refused("the prompt has no token", "give a text to go on from"));
        }
        let mut cache = Cache::new(&self.arch, &self.compute);
        let (mut next, mut past) = (prompt.to_vec(), 0);
        let mut text = Vec::new();
        while text.len() < most && past + next.len() <= self.arch.context {
            let mut batch = Batch::default();
            batch.push(&next, 0..past);
            let last = [next.len() - 1];
            let logits = self.logits(&batch, Past::Grow(&mut cache), &last);
            past += next.len();
            let logits = logits.row_f64(0);
            if !logits.iter().all(|z| z.is_finite()) {
                return Err(Error::numeric(
                    format!("the logits after token {past} are not finite"),
                    "check the checkpoint for NaN weights",
                ));
            }
            let token = sampling.choose(&logits, rng);
            if stop.contains(&token) {
                break;
            }
            text.push(token);
            if !each(token) {
                break;
            }
            next = vec![token];
        }
        Ok(text)
    }

    /// Refuses tokens that this model cannot run.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.len() > self.arch.context {
            return Err(Error::refused(
                format!("{} tokens; the model's context is {}", ids.len(), self.arch.context),
                "shorten the text",
            ));
        }
        match ids.iter().find(|&&id| id as usize >= self.arch.vocabulary) {
            None => Ok(()),
            Some(id) => Err(Error::refused(
                format!("token {id} is not among the model's {}", self.arch.vocabulary),
                "use the tokenizer.json that belongs to this checkpoint",
            )),
        }
    }
}
