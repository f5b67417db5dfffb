//! Generating text token by token, greedily or sampled with a seed, with a key/value cache.

use super::batch::Batch;
use super::cache::KvCache;
use super::cache::Past;
use super::language_model::LanguageModel;
use super::site::NoHook;
use crate::base::{Error, Result, Rng};
use crate::ops::sample;
pub use crate::ops::sample::Sampling;

/// Up to `most` tokens after `prompt`, ending before one of `stop`. `each` is called with every
/// token and may end the text by returning false.
///
/// # Errors
///
/// A prompt without tokens, longer than the model's context, or with a token that is not in
/// its vocabulary; logits that are not finite; a device that is out of memory.
pub fn generate(
    model: &dyn LanguageModel,
    prompt: &[u32],
    most: usize,
    sampling: Sampling,
    rng: &mut Rng,
    stop: &[u32],
    each: &mut dyn FnMut(u32) -> bool,
) -> Result<Vec<u32>> {
    model.arch().check(prompt)?;
    if prompt.is_empty() {
        return Err(Error::refused("the prompt has no token", "give a text to continue"));
    }
    let (arch, compute) = (model.arch(), model.compute());
    let mut cache = compute.run(|| Ok(KvCache::new(arch, compute)))?;
    let mut next = prompt.to_vec();
    let mut past = 0;
    let mut text = Vec::new();
    while text.len() < most && past + next.len() <= arch.max_positions {
        let mut batch = Batch::default();
        batch.push(&next, 0..past);
        let last = [next.len() - 1];
        let uniform = if sampling.temperature > 0.0 { rng.uniform() } else { 0.0 };
        let token = compute.run(|| {
            let logits = model.run(&batch, &mut Past::Grow(&mut cache), &last, &mut NoHook)?;
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
