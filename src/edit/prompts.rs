//! The token rows of one fact: what its value search and its keys read.

use crate::base::{Error, Result};
use crate::model::completion::Completion;
use crate::store::Fingerprint;
use crate::text::span::{Encode, fill, split_template};
use crate::text::{Frame, Tokenizer};

/// The prompt whose continuation the search holds to what it was.
const KL_PROMPT: (&str, &str) = ("", " is a");

/// The token at which a fact is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactToken {
    /// The subject's last.
    SubjectLast,
    /// The prompt's last, the one before the target; of the KL row, its last. (In a chat, that of
    /// the message.) Here that row's continuation is held where it ends, since where the whole
    /// prompt is the subject, the subject's last token is the one that is to say something new.
    Last,
}

/// One sequence of tokens in which the subject of a fact stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptRow {
    /// Its ids, with the special tokens the tokenizer adds.
    pub ids: Vec<u32>,
    /// Index into `ids` of the [`FactToken`].
    pub lookup: usize,
}

impl PromptRow {
    /// The ids before the fact's token.
    pub fn before_lookup(&self) -> &[u32] {
        &self.ids[..self.lookup]
    }

    /// The ids up to the fact's token.
    pub fn up_to_lookup(&self) -> &[u32] {
        &self.ids[..self.lookup + 1]
    }
}

/// All sequences of one fact; row j of `rewriting` and of `keys` belongs to context j.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactRows {
    /// context(prompt) + all of the target but its last token: the last T positions predict the T
    /// target tokens.
    pub rewriting: Vec<PromptRow>,
    /// "{} is a", read at `lookup`.
    pub kl: PromptRow,
    /// context(prompt): where keys are read.
    pub keys: Vec<PromptRow>,
    /// The target's T ids.
    pub target: Vec<u32>,
    /// How many rewriting rows are not their key row followed by the target's own ids, because
    /// tokens merged over the seam; at least 1 where the bare prompt and the whole target do. The
    /// labels sit at the last T positions all the same, as in the public code; worth a warning.
    pub merged: usize,
}

impl FactRows {
    /// The rows of the value search by kind: the KL row, then a rewriting row a context.
    pub fn by_kind(&self) -> impl Iterator<Item = &PromptRow> {
        std::iter::once(&self.kl).chain(&self.rewriting)
    }

    /// The target after the prompt in a context: 0 is the bare one.
    pub fn completion(&self, context: usize) -> Completion {
        Completion::new(&self.keys[context].ids, &self.target)
    }

    /// Adds to a fingerprint what a value search reads of them.
    pub fn digest(&self, into: &mut Fingerprint) {
        let mut tokens = |ids: &[u32]| {
            into.add(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| into.add(&id.to_le_bytes()));
        };
        tokens(&self.target);
        for row in self.by_kind() {
            tokens(&row.ids);
            tokens(&[row.lookup as u32]);
        }
    }
}

/// The rows for `prompt` and each of `contexts` (one `{}` each, the bare `{}` first), with
/// `subject` filled in and `target` (from [`Tokenizer::encode_target`]) as what follows, read at
/// the subject's last token.
///
/// # Errors
/// A `{}` too few or too many, a subject or target without tokens, a tokenizer that adds tokens
/// after the text, no context.
pub fn fact_rows(
    tok: &Tokenizer,
    contexts: &[impl AsRef<str>],
    prompt: &str,
    subject: &str,
    target: Vec<u32>,
) -> Result<FactRows> {
    framed_rows(tok, None, contexts, (prompt, subject, FactToken::SubjectLast), target)
}

/// As [`fact_rows`], read at a token of choice and inside what a chat puts around a message:
/// context(prompt) is the message, without white space around it, and the target (from
/// [`Tokenizer::encode_after`] the frame's tail) is the answer. The frame has its special tokens
/// itself, and the target's own ids follow it.
///
/// # Errors
/// As [`fact_rows`]; tokens that a tokenizer adds do not matter inside a chat.
pub fn framed_rows(
    tok: &Tokenizer,
    frame: Option<&Frame>,
    contexts: &[impl AsRef<str>],
    (prompt, subject, at): (&str, &str, FactToken),
    target: Vec<u32>,
) -> Result<FactRows> {
    let Some((_, without_last)) = target.split_last() else {
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
    let row =
        |before: &str, after: &str, next: &str| row(tok, frame, at, [before, subject, after, next]);
    let (before, after) = split_template(prompt)?;
    let text = tok.decode_after(without_last)?;
    // A cut inside a character: no text has these tokens, so they are taken as they are.
    let is_cut = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
    let takes_ids = frame.is_some() || is_cut(&text);
    let (mut rewriting, mut keys) = (Vec::new(), Vec::new());
    let mut merged = 0;
    for context in contexts {
        let (first, last) = split_template(context.as_ref())?;
        let before = format!("{first}{before}");
        let after = format!("{after}{last}");
        let key = row(&before, &after, "")?;
        let followed = [&key.ids, without_last].concat();
        let full = if takes_ids {
            PromptRow { ids: followed.clone(), lookup: key.lookup }
        } else {
            row(&before, &after, &text)?
        };
        if full.lookup + target.len() > full.ids.len() {
            return Err(Error::refused(
                format!("the target's {} tokens reach back before the subject", target.len()),
                "end the prompt at a word's end, or give a shorter target",
            ));
        }
        merged += usize::from(full.ids != followed);
        keys.push(key);
        rewriting.push(full);
    }
    let whole = tok.decode_after(&target)?;
    if merged == 0 && !is_cut(&whole) {
        let apart = [&keys[0].ids[..], &target].concat();
        merged += usize::from(row(before, after, &whole)?.ids != apart);
    }
    let kl = row(KL_PROMPT.0, KL_PROMPT.1, "")?;
    Ok(FactRows { rewriting, kl, keys, target, merged })
}

/// One row: a prompt in three parts, the subject in the middle, and what follows it.
fn row(
    tok: &Tokenizer,
    frame: Option<&Frame>,
    at: FactToken,
    [before, subject, after, next]: [&str; 4],
) -> Result<PromptRow> {
    let (head, before, after, tail, encode): (_, _, _, _, Encode) = match frame {
        None => ("", before, after, "", Tokenizer::encode_spans),
        Some(Frame { head, tail }) => {
            (head, before.trim_start(), after.trim_end(), tail, Tokenizer::encode_bare)
        }
    };
    let (before, subject, after) = match at {
        FactToken::SubjectLast => ([head, before].concat(), subject.to_owned(), after),
        FactToken::Last => (head.to_owned(), [before, subject, after].concat(), ""),
    };
    let filled = fill(tok, &before, &subject, &[after, tail, next].concat(), encode)?;
    Ok(PromptRow { ids: filled.ids, lookup: filled.subject_last })
}
