//! Which token ends the subject: where a fact is read and written.
//!
//! The whole text is tokenised once, and the subject's last token is the last one whose bytes
//! intersect the filled `{}`. The public code tokenises the text in pieces and adds lengths, which
//! goes wrong where a token crosses the seam.

use super::{Encoded, Tokenizer};
use crate::base::{Error, Result};

/// A tokenised text and the subject's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The ids of the text, with the special tokens the tokenizer adds.
    pub ids: Vec<u32>,
    /// Index into `ids` of the subject's last token.
    pub subject_last: usize,
}

/// Fills the one `{}` of `template` with `subject` and finds the subject's last token.
///
/// White space around the subject is not part of it: it would hand the place on to the next word.
///
/// # Errors
/// A template without exactly one `{}`, an empty subject, or one the tokenizer leaves no token of.
pub fn subject_token(tok: &Tokenizer, template: &str, subject: &str) -> Result<Place> {
    let (before, after) = halves(template)?;
    place(tok, before, subject, after, Tokenizer::encode_spans)
}

/// What stands before and after the one `{}` of a template.
///
/// # Errors
/// A template without exactly one `{}`.
pub fn halves(template: &str) -> Result<(&str, &str)> {
    match template.split_once("{}") {
        Some((before, after)) if !after.contains("{}") => Ok((before, after)),
        _ => Err(Error::refused(
            format!("{template:?} has {} places {{}}", template.matches("{}").count()),
            "write {} exactly once, where the subject stands",
        )),
    }
}

/// How a text becomes tokens.
pub type Encode = fn(&Tokenizer, &str) -> Result<Encoded>;

/// As [`subject_token`], for a template already cut at its `{}`: neither half is searched again.
///
/// # Errors
/// As [`subject_token`].
pub fn place(
    tok: &Tokenizer,
    before: &str,
    subject: &str,
    after: &str,
    encode: Encode,
) -> Result<Place> {
    let name = subject.trim();
    if name.is_empty() {
        return Err(Error::refused("the subject is empty", "name the subject of the fact"));
    }
    let start = before.len() + subject.len() - subject.trim_start().len();
    let end = start + name.len();
    let encoded = encode(tok, &[before, subject, after].concat())?;
    let inside = |&(a, b): &(usize, usize)| a < b && a < end && start < b;
    match encoded.spans.iter().rposition(inside) {
        Some(subject_last) => Ok(Place { ids: encoded.ids, subject_last }),
        None => Err(Error::refused(
            format!("the tokenizer leaves nothing of the subject {name:?}"),
            "write the subject in characters it has tokens for",
        )),
    }
}
