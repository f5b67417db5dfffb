//! Facts in context: tokens that stand before every prompt, as they are or the fact's that is most
//! alike.
//!
//! ```text
//! one fact       its context stands before every prompt
//! several        that of the fact whose prompt is most alike (`likeness.rs`); none where no token
//!                is shared
//! read           context, prompt, continuation: one text
//! ```
//!
//! A prompt comes as tokens of a text of its own, and goes on a text here. So that its tokens are
//! those of the joint text, the token that begins texts gives its place to the context's last, and
//! the prompt's first token becomes the one with a space before it, where there is one. A word that
//! is cut otherwise at the start of a text stays as it is cut.
//!
//! Source: Zheng et al. 2023, arXiv:2305.12740.

use super::likeness::Texts;
use crate::model::lineage::WeightsName;
use crate::text::Tokenizer;

/// Facts, each with its context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextMemory {
    /// The weights it was made for.
    pub made_for: WeightsName,
    /// The token that begins a text, where the tokenizer puts one there.
    pub begin: Option<u32>,
    /// Tokens that begin a word at the start of a text, and the same with a space before them;
    /// ascending.
    pub spaced: Vec<[u32; 2]>,
    /// In the order in which they were made.
    pub entries: Vec<ContextEntry>,
}

/// A fact's context.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextEntry {
    /// The fact's prompt, which others are compared with.
    pub prompt: Vec<u32>,
    /// What stands before a prompt, with the token that begins a text; at least one token.
    pub context: Vec<u32>,
}

/// A prompt behind a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// How many of the context's tokens stand before it.
    pub context: usize,
    /// The prompt's tokens, as many as there were.
    pub ids: Vec<u32>,
}

impl ContextMemory {
    /// Without facts, for texts of a tokenizer and ids below `vocabulary`.
    pub fn empty(text: &Tokenizer, vocabulary: usize) -> ContextMemory {
        ContextMemory {
            begin: (text.bos.len() == 1).then(|| text.bos[0]),
            spaced: spaced(text, vocabulary),
            ..ContextMemory::default()
        }
    }

    /// What choices are made by; nothing where there is no choice.
    pub(super) fn texts(&self) -> Option<Texts> {
        let prompts = self.entries.iter().map(|entry| self.words(&entry.prompt));
        (self.entries.len() > 1).then(|| Texts::new(prompts))
    }

    /// A prompt without the token that every text begins with, which makes none alike.
    fn words<'p>(&self, prompt: &'p [u32]) -> &'p [u32] {
        match (self.begin, prompt) {
            (Some(begin), [first, words @ ..]) if *first == begin => words,
            _ => prompt,
        }
    }

    /// The entry whose context stands before a prompt; nothing where none does.
    pub(super) fn choose(&self, texts: Option<&Texts>, prompt: &[u32]) -> Option<usize> {
        match texts {
            None => (!self.entries.is_empty()).then_some(0),
            Some(texts) => {
                let prompt = self.words(prompt);
                let likeness = texts.likeness(prompt);
                let first = *texts.nearest(prompt).first()?;
                (likeness[first] > 0.0).then_some(first)
            }
        }
    }

    /// A text that begins with a prompt, behind the context of an entry.
    pub fn place(&self, entry: usize, text: &[u32]) -> Placed {
        self.place_behind(&self.entries[entry].context, text)
    }

    /// The same behind a context that is no entry's.
    pub fn place_behind(&self, context: &[u32], text: &[u32]) -> Placed {
        let mut placed = Placed { context: context.len(), ids: text.to_vec() };
        let mut first = 0;
        if let (Some(begin), Some(id)) = (self.begin, placed.ids.first_mut())
            && *id == begin
            && let Some((&last, before)) = context.split_last()
        {
            *id = last;
            placed.context = before.len();
            first = 1;
        }
        if let Some(id) = placed.ids.get_mut(first)
            && let Ok(at) = self.spaced.binary_search_by_key(id, |[plain, _]| *plain)
        {
            *id = self.spaced[at][1];
        }
        placed
    }
}

/// Tokens that begin a word at the start of a text, and the same behind a space, if both are one.
fn spaced(text: &Tokenizer, vocabulary: usize) -> Vec<[u32; 2]> {
    let pair = |id: u32| {
        let word = text.decode_after(&[id]).ok()?;
        if word.is_empty() || word.contains('\u{FFFD}') || word.starts_with(char::is_whitespace) {
            return None;
        }
        let alone = text.encode_bare(&word).ok()?.ids;
        let behind = text.encode_after("Prompt:", &format!(" {word}")).ok()?;
        (alone == [id] && behind.len() == 1 && behind[0] != id).then(|| [id, behind[0]])
    };
    let ids = 0..text.vocab_size().min(vocabulary) as u32;
    ids.filter_map(pair).collect()
}
