//! Text goes on token by token: greedy, or sampled with a seed, on a key/value cache.

use super::batch::Batch;
use super::cache::Cache;
use super::decoder::Past;
use super::load::Model;
use crate::base::{Error, Result, Rng, catch_device_error};
use crate::ops::sample;
pub use crate::ops::sample::Sampling;

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
        catch_device_error(|| self.go_on(prompt, most, sampling, rng, stop, each))
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
            let uniform = if sampling.temperature > 0.0 { rng.uniform() } else { 0.0 };
            let token = sample::next(&logits, sampling, uniform).ok_or_else(|| {
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
