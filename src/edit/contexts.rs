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
use crate::model::generate::{Sampling, generate};
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
    let mut drawn = Vec::new();
    for &(times, length) in shapes {
        for opening in OPENINGS.iter().flat_map(|o| std::iter::repeat_n(o, times)) {
            let ids = tokenizer.encode(opening)?;
            let most = length.saturating_sub(ids.len());
            let more = generate(model, &ids, most, sampling, &mut rng, &[], &mut |_| true)?;
            drawn.push(template(opening, &tokenizer.decode_after(&more)?));
        }
    }
    Contexts::new(Path::new("drawn contexts"), vec![vec!["{}".into()], drawn])
}

/// One line, without braces that would look like a place to fill in.
fn template(opening: &str, more: &str) -> String {
    let text = format!("{opening}{more}").replace(['{', '}'], " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    format!("{}. {{}}", words.join(" "))
}
