//! Prefixes drawn from the model itself, with a seed, when none are given.
//!
//! Five opening words go on for a few sampled tokens each; the text and ". {}" make a context. The
//! public code draws the same way, unseeded, once a process; ours depends on model and seed alone
//! and is recorded in the patch.

use std::path::Path;

use super::method::{Batching, Method};
use crate::base::{Result, Rng};
use crate::data::Contexts;
use crate::model::Model;
use crate::model::generate::{Beginning, Sampling, generate_all};
use crate::text::Tokenizer;

const OPENINGS: [&str; 5] = ["The", "Therefore", "Because", "I", "You"];
/// Texts drawn for each opening, and their length in tokens with the opening: ROME's.
const SHORT_AND_LONG: [(usize, usize); 2] = [(2, 5), (2, 10)];
/// Those of MEMIT and its family.
const LONG: [(usize, usize); 1] = [(1, 10)];
/// The likeliest tokens that take part, as in the public sampler.
const TOP_K: usize = 5;

/// The bare prompt and, as a second group, drawn contexts: twenty for ROME, five for methods of
/// many facts.
///
/// # Errors
///
/// A tokenizer that does not fit the model.
pub fn draw(
    model: &Model,
    tokenizer: &Tokenizer,
    method: &dyn Method,
    seed: u64,
) -> Result<Contexts> {
    let shapes = match method.batching() {
        Batching::OneByOne => &SHORT_AND_LONG[..],
        Batching::Together | Batching::Epochs | Batching::Turns => &LONG,
    };
    let sampling = Sampling { temperature: 1.0, top_k: TOP_K, top_p: 1.0 };
    let mut rng = Rng::new(seed, "contexts");
    let mut texts = Vec::new(); // opening, its tokens, how many more, what chance is drawn from
    for &(times, length) in shapes {
        for opening in OPENINGS.iter().flat_map(|o| std::iter::repeat_n(o, times)) {
            let ids = tokenizer.encode(opening)?;
            let most = length.saturating_sub(ids.len());
            texts.push((opening, ids, most, rng.clone()));
            // As if the texts were drawn one after the other.
            for _ in 0..most {
                rng.uniform();
            }
        }
    }
    let begun = texts.iter_mut().map(|(_, prompt, most, rng)| Beginning {
        prompt,
        most: *most,
        sampling,
        rng,
        each: Box::new(|_| true),
    });
    let said = generate_all(model, begun.collect(), &[])?;
    let drawn: Vec<String> = texts
        .iter()
        .zip(said)
        .map(|((opening, ..), said)| Ok(template(opening, &tokenizer.decode_after(&said)?)))
        .collect::<Result<_>>()?;
    Contexts::new(Path::new("drawn contexts"), vec![vec!["{}".into()], drawn])
}

/// One line, without braces that would look like a place to fill in.
fn template(opening: &str, more: &str) -> String {
    let text = format!("{opening}{more}").replace(['{', '}'], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    format!("{}. {{}}", words.join(" "))
}
