//! The subject's tokens, of which the last is where a fact is read and written.
//!
//! The whole text is tokenised once, and the subject's tokens are those whose bytes intersect the
//! subject's. The public code tokenises the text in pieces and adds their lengths,
//! which is wrong where a token crosses from one piece into the next.

use super::tokenizer::{Encoded, Tokenizer};
use crate::base::{Error, Result};

/// A template whose `{}` is filled with a subject, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilledTemplate {
    /// The ids of the text, with the special tokens the tokenizer adds.
    pub ids: Vec<u32>,
    /// Index into `ids` of the subject's first token.
    pub subject_first: usize,
    /// Index into `ids` of the subject's last token.
    pub subject_last: usize,
}

/// Fills the one `{}` of `template` with `subject` and finds the subject's last token.
///
/// White space around the subject is not part of it: with it, the token found could be the next
/// word's.
///
/// # Errors
/// A template without exactly one `{}`, an empty subject, or one that the tokenizer drops.
pub fn subject_token(tok: &Tokenizer, template: &str, subject: &str) -> Result<FilledTemplate> {
    let (before, after) = split_template(template)?;
    fill(tok, before, subject, after, Tokenizer::encode_spans)
}

/// The text before and after the one `{}` of a template.
///
/// # Errors
/// No `{}`, or more than one.
pub fn split_template(template: &str) -> Result<(&str, &str)> {
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

/// As [`subject_token`], for a template that is already split: a `{}` inside its halves is text.
///
/// # Errors
/// An empty subject, or one that the tokenizer drops.
pub fn fill(
    tok: &Tokenizer,
    before: &str,
    subject: &str,
    after: &str,
    encode: Encode,
) -> Result<FilledTemplate> {
    let name = subject.trim();
    if name.is_empty() {
        return Err(Error::refused("the subject is empty", "name the subject of the fact"));
    }
    let start = before.len() + subject.len() - subject.trim_start().len();
    let end = start + name.len();
    let encoded = encode(tok, &[before, subject, after].concat())?;
    let intersects = |&(a, b): &(usize, usize)| a < b && a < end && start < b;
    let spans = &encoded.spans;
    match spans.iter().position(intersects).zip(spans.iter().rposition(intersects)) {
        Some((subject_first, subject_last)) => {
            Ok(FilledTemplate { ids: encoded.ids, subject_first, subject_last })
        }
        None => Err(Error::refused(
            format!("the tokenizer leaves nothing of the subject {name:?}"),
            "write the subject in characters it has tokens for",
        )),
    }
}
