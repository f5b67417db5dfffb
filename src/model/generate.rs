//! Generating text token by token, greedily or sampled with a seed, with a key/value cache.

use super::batch::Batch;
use super::cache::KvCache;
use super::cache::Past;
use super::model::Model;
use crate::base::{Error, Result, Rng};
use crate::ops::sample;
pub use crate::ops::sample::Sampling;

impl Model {
    /// Up to `most` tokens after `prompt`, ending before one of `stop`. `each` is called with every
    /// token and may end the text by returning false.
    ///
    /// # Errors
    ///
    /// A prompt without tokens, longer than the model's context, or with a token that is not in
    /// its vocabulary; logits that are not finite; a device that is out of memory.
    pub fn generate(
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
            return Err(Error::refused("the prompt has no token", "give a text to continue"));
        }
        let mut cache = self.compute.run(|| Ok(KvCache::new(&self.arch, &self.compute)))?;
        let mut next = prompt.to_vec();
        let mut past = 0;
        let mut text = Vec::new();
        while text.len() < most && past + next.len() <= self.arch.max_positions {
            let mut batch = Batch::default();
            batch.push(&next, 0..past);
            let last = [next.len() - 1];
            let uniform = if sampling.temperature > 0.0 { rng.uniform() } else { 0.0 };
            let token = self.compute.run(|| {
                let logits = self.compute_logits(&batch, Past::Grow(&mut cache), &last);
                Ok(sample::next(&logits, sampling, uniform))
            })?;
            past += next.len();
            let token = token.ok_or_else(|| {
                Error::numeric(
                    format!("the logits after token {past} are not finite"),
                    "check the checkpoint for NaN weights",
                )
            })?;
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
    ///
    /// # Errors
    ///
    /// More tokens than its context has, or one that is not in its vocabulary.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.len() > self.arch.max_positions {
            return Err(Error::refused(
                format!("{} tokens; the model's context is {}", ids.len(), self.arch.max_positions),
                "shorten the text",
            ));
        }
        match ids.iter().find(|&&id| id as usize >= self.arch.vocabulary) {
            None => Ok(()),
            Some(id) => Err(Error::refused(
                format!("token {id} is not in the model's vocabulary of {}", self.arch.vocabulary),
                "use the tokenizer.json that belongs to this checkpoint",
            )),
        }
    }
}
