//! Generating text token by token, greedily or sampled with a seed, with a key/value cache.
//!
//! Several texts go on together: each prompt runs alone, and then a pass has a token of every text,
//! so that the weights are read once for all of them. A pass has so few rows that on the CPU a
//! row's numbers do not depend on the others: each text is what it is alone, bit for bit.

use std::ops::Range;

use super::batch::Batch;
use super::cache::{KvCache, Past};
use super::language_model::LanguageModel;
use super::site::NoHook;
use crate::base::{Error, Result, Rng};
use crate::ops::linear::BATCH_INVARIANT_ROWS;
use crate::ops::rows;
use crate::ops::sample;
pub use crate::ops::sample::Sampling;
use crate::tensor::Tensor;

/// Texts that go on together, at most.
pub const TOGETHER: usize = BATCH_INVARIANT_ROWS - 1;

/// A prompt, and how a text goes on from it.
pub struct Beginning<'a> {
    /// The prompt.
    pub prompt: &'a [u32],
    /// At most so many tokens after it.
    pub most: usize,
    /// How they are chosen.
    pub sampling: Sampling,
    /// What chance is drawn from: a number a token that is sampled.
    pub rng: &'a mut Rng,
    /// Is called with every token, and may end the text by returning false.
    pub each: Box<dyn FnMut(u32) -> bool + 'a>,
}

/// Up to `most` tokens after `prompt`, ending before one of `stop`. `each` is called with every
/// token and may end the text by returning false.
///
/// # Errors
///
/// As [`generate_all`].
pub fn generate(
    model: &dyn LanguageModel,
    prompt: &[u32],
    most: usize,
    sampling: Sampling,
    rng: &mut Rng,
    stop: &[u32],
    each: &mut dyn FnMut(u32) -> bool,
) -> Result<Vec<u32>> {
    let text = Beginning { prompt, most, sampling, rng, each: Box::new(each) };
    Ok(generate_all(model, vec![text], stop)?.remove(0))
}

/// The tokens after each prompt, ending before one of `stop`.
///
/// # Errors
///
/// A prompt without tokens, longer than the model's context, or with a token that is not in
/// its vocabulary; logits that are not finite; a device that is out of memory.
pub fn generate_all(
    model: &dyn LanguageModel,
    texts: Vec<Beginning>,
    stop: &[u32],
) -> Result<Vec<Vec<u32>>> {
    let mut texts: Vec<Text> =
        texts.into_iter().map(|begun| Text::new(model, begun)).collect::<Result<_>>()?;
    for some in texts.chunks_mut(TOGETHER) {
        go_on(model, some, stop)?;
    }
    Ok(texts.into_iter().map(|text| text.said).collect())
}

/// A text that is being written.
struct Text<'a> {
    begun: Beginning<'a>,
    said: Vec<u32>,
    next: Vec<u32>,     // what the next pass reads of it
    past: Range<usize>, // its rows of the cache
    ended: bool,
}

impl<'a> Text<'a> {
    fn new(model: &dyn LanguageModel, begun: Beginning<'a>) -> Result<Text<'a>> {
        model.arch().check(begun.prompt)?;
        if begun.prompt.is_empty() {
            return Err(Error::refused("the prompt has no token", "give a text to continue"));
        }
        let next = begun.prompt.to_vec();
        Ok(Text { begun, said: Vec::new(), next, past: 0..0, ended: false })
    }

    fn goes_on(&self, model: &dyn LanguageModel) -> bool {
        let fits = self.past.len() + self.next.len() <= model.arch().max_positions;
        !self.ended && fits && self.said.len() < self.begun.most
    }

    /// The token that these logits (1, V) say.
    fn choose(&mut self, z: &Tensor) -> Option<u32> {
        let sampling = self.begun.sampling;
        let uniform = if sampling.temperature > 0.0 { self.begun.rng.uniform() } else { 0.0 };
        sample::next(z, sampling, uniform)
    }

    fn push(&mut self, token: u32, stop: &[u32]) {
        if stop.contains(&token) {
            self.ended = true;
            return;
        }
        self.said.push(token);
        self.next = vec![token];
        self.ended = !(self.begun.each)(token);
    }
}

/// Writes texts to their ends.
fn go_on(model: &dyn LanguageModel, texts: &mut [Text], stop: &[u32]) -> Result<()> {
    let (arch, compute) = (model.arch(), model.compute());
    let empty = || compute.run(|| Ok(KvCache::new(arch, compute)));
    let mut caches = Vec::with_capacity(texts.len());
    for text in &mut *texts {
        let mut cache = empty()?;
        if text.goes_on(model) {
            pass(model, &mut cache, &mut [text], stop)?;
        }
        caches.push(cache);
    }
    let mut going: Vec<(&mut Text, KvCache)> = texts.iter_mut().zip(caches).collect();
    going.retain(|(text, _)| text.goes_on(model));
    // What an edit beside the weights keeps in a cache belongs to the cache's own rows.
    let alone = going.len() < 2 || going.iter().any(|(_, cache)| !cache.is_plain());
    if alone {
        for (text, mut cache) in going {
            while text.goes_on(model) {
                pass(model, &mut cache, &mut [&mut *text], stop)?;
            }
        }
        return Ok(());
    }
    let mut all = empty()?;
    let mut together = Vec::with_capacity(going.len());
    for (text, cache) in going {
        let begin = all.rows();
        compute.run(|| {
            all.append(0..arch.layers, &cache, text.past.clone());
            Ok(())
        })?;
        text.past = begin..all.rows();
        together.push(text);
    }
    while !together.is_empty() {
        pass(model, &mut all, &mut together, stop)?;
        together.retain(|text| text.goes_on(model));
    }
    Ok(())
}

/// Reads what is next of each text, and says a token of each.
fn pass(
    model: &dyn LanguageModel,
    cache: &mut KvCache,
    texts: &mut [&mut Text],
    stop: &[u32],
) -> Result<()> {
    let arch = model.arch();
    let mut batch = Batch::default();
    let new: Vec<Range<usize>> =
        texts.iter().map(|text| batch.push(&text.next, text.past.clone())).collect();
    let last: Vec<usize> = new.iter().map(|rows| rows.end - 1).collect();
    let before = cache.rows();
    let tokens: Vec<Option<u32>> = model.compute().run(|| {
        let z = model.run(&batch, &mut Past::Grow(cache), &last, &mut NoHook)?;
        let mut one = z.like(&[1, arch.vocabulary]);
        let choose = |(i, text): (usize, &mut &mut Text)| {
            rows::put(&z, i..i + 1, &mut one, 0);
            text.choose(&one)
        };
        let tokens = texts.iter_mut().enumerate().map(choose).collect();
        gather(
            cache,
            arch.layers,
            texts,
            new.iter().map(|rows| before + rows.start..before + rows.end),
        );
        Ok(tokens)
    })?;
    for (text, token) in texts.iter_mut().zip(tokens) {
        let token = token.ok_or_else(|| {
            Error::numeric(
                format!("the logits after token {} are not finite", text.past.len()),
                "check the checkpoint for NaN weights",
            )
        })?;
        text.push(token, stop);
    }
    Ok(())
}

/// Puts the rows of each text and its new ones one after the other, and drops those of others.
fn gather(
    cache: &mut KvCache,
    layers: usize,
    texts: &mut [&mut Text],
    new: impl Iterator<Item = Range<usize>>,
) {
    let mut rows: Vec<Range<usize>> = Vec::with_capacity(2 * texts.len());
    let mut begin = 0;
    for (text, new) in texts.iter_mut().zip(new) {
        let end = begin + text.past.len() + new.len();
        rows.extend([text.past.clone(), new]);
        text.past = begin..end;
        begin = end;
    }
    let in_place = |(a, b): (&Range<usize>, &Range<usize>)| a.end == b.start;
    if rows[0].start > 0 || !rows.iter().zip(&rows[1..]).all(in_place) {
        cache.keep(0..layers, &rows);
    }
}
