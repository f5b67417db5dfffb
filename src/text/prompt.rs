//! The token rows of one fact: what its value search and its keys read.

use super::chat::Frame;
use super::span::{fill, split_template};
use super::tokenizer::Tokenizer;
use crate::base::{Error, Result};

/// The prompt at which the subject should stay what it is.
const ESSENCE: (&str, &str) = ("", " is a");

/// One sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its ids, with the special tokens the tokenizer adds.
    pub ids: Vec<u32>,
    /// Index into `ids` of the subject's last token.
    pub lookup: usize,
}

/// All sequences of one fact; row j of `rewriting` and of `keys` belongs to context j.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// context(prompt) + all of the target but its last token: the last T positions predict the T
    /// target tokens.
    pub rewriting: Vec<Row>,
    /// "{} is a", read at `lookup`, not at its end.
    pub kl: Row,
    /// context(prompt): where keys are read.
    pub keys: Vec<Row>,
    /// The target's T ids.
    pub target: Vec<u32>,
    /// How many rewriting rows are not their key row followed by the target's own ids, because
    /// tokens merged over the seam. The labels sit at the last T positions all the same, as in the
    /// public code; worth a warning.
    pub merged: usize,
}

impl Rows {
    /// Gives `add` everything a value search reads of them, piece by piece.
    pub fn digest(&self, add: &mut dyn FnMut(&[u8])) {
        let mut ids = |ids: &[u32]| {
            add(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        };
        ids(&[self.rewriting.len() as u32]);
        for row in self.rewriting.iter().chain([&self.kl]) {
            ids(&row.ids);
            ids(&[row.lookup as u32]);
        }
        ids(&self.target);
    }
}

/// The rows for `prompt` and each of `contexts` (one `{}` each, the bare `{}` first), with
/// `subject` filled in and `target` (from [`Tokenizer::encode_target`]) to be said.
///
/// # Errors
/// A `{}` too few or too many, a subject or target without tokens, a tokenizer that adds tokens
/// after the text, no context.
pub fn rows(
    tok: &Tokenizer,
    contexts: &[impl AsRef<str>],
    prompt: &str,
    subject: &str,
    target: Vec<u32>,
) -> Result<Rows> {
    rows_in(tok, None, contexts, prompt, subject, target)
}

/// As [`rows`], inside what a chat puts around a message: context(prompt) is the message, without
/// white space around it, and the target (from [`Tokenizer::encode_after`] the frame's tail) is
/// the answer. The chat says its special tokens itself, and the target's own ids follow it.
///
/// # Errors
/// As [`rows`]; tokens that a tokenizer adds do not matter.
pub fn rows_in(
    tok: &Tokenizer,
    frame: Option<&Frame>,
    contexts: &[impl AsRef<str>],
    prompt: &str,
    subject: &str,
    target: Vec<u32>,
) -> Result<Rows> {
    let Some((_, said)) = target.split_last() else {
        return Err(Error::refused("the target has no token", "give a target"));
    };
    if contexts.is_empty() {
        return Err(Error::refused("there is no context", "give at least {}"));
    }
    if let (None, Some(&id)) = (frame, tok.eos.first()) {
        return Err(Error::refused(
            format!("the tokenizer puts {:?} after every text", tok.token_text(id)),
            "take it out of tokenizer.json's post_processor: the target must follow the prompt",
        ));
    }
    let row = |before: &str, after: &str| {
        let filled = match frame {
            None => fill(tok, before, subject, after, Tokenizer::encode_spans)?,
            Some(Frame { head, tail }) => {
                let before = [head, before.trim_start()].concat();
                let after = [after.trim_end(), tail].concat();
                fill(tok, &before, subject, &after, Tokenizer::encode_bare)?
            }
        };
        Ok::<_, Error>(Row { ids: filled.ids, lookup: filled.subject_last })
    };
    let (before, after) = split_template(prompt)?;
    let said_text = tok.decode_after(said)?;
    let (mut rewriting, mut keys, mut merged) = (vec![], vec![], 0);
    for context in contexts {
        let (first, last) = split_template(context.as_ref())?;
        let (before, after) = (format!("{first}{before}"), format!("{after}{last}"));
        let key = row(&before, &after)?;
        let full = match frame.is_some() || said_text.contains(char::REPLACEMENT_CHARACTER) {
            // The cut falls inside a character: no text says these tokens, so they are taken. So
            // they are in a chat, where the message ends before the target in any case.
            true => Row { ids: [&key.ids, said].concat(), lookup: key.lookup },
            false => row(&before, &format!("{after}{said_text}"))?,
        };
        if full.lookup + target.len() > full.ids.len() {
            return Err(Error::refused(
                format!("the target's {} tokens reach back before the subject", target.len()),
                "end the prompt at a word's end, or give a shorter target",
            ));
        }
        merged += usize::from(full.ids != [&key.ids, said].concat());
        keys.push(key);
        rewriting.push(full);
    }
    let kl = row(ESSENCE.0, ESSENCE.1)?;
    Ok(Rows { rewriting, kl, keys, target, merged })
}
