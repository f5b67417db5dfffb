//! Text from ids as they come: several tokens may form one character, and a SentencePiece-style
//! decoder needs to know that a token does not begin the text.

use super::Tokenizer;
use crate::base::Result;

/// Decodes one token at a time and holds back what is not yet a whole character.
pub struct Stream<'t> {
    tok: &'t Tokenizer,
    /// Ids shown last (`..shown`), which say how the rest decodes, and those held back.
    ids: Vec<u32>,
    shown: usize,
}

impl<'t> Stream<'t> {
    /// A stream that goes on after `context`, the prompt's ids, whose text is not repeated.
    pub fn new(tok: &'t Tokenizer, context: &[u32]) -> Self {
        Stream { tok, ids: context.to_vec(), shown: context.len() }
    }

    /// The text that `id` completes; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.held()?;
        if text.is_empty() || text.ends_with('\u{FFFD}') {
            return Ok(String::new());
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(text)
    }

    /// What is still held back, incomplete characters as U+FFFD.
    pub fn finish(self) -> Result<String> {
        self.held()
    }

    fn held(&self) -> Result<String> {
        let before = self.tok.decode(&self.ids[..self.shown])?;
        match self.tok.decode(&self.ids)?.strip_prefix(&before) {
            Some(text) => Ok(text.to_string()),
            // A byte that fits nothing can change how the bytes before it decode.
            None => self.tok.decode_after(&self.ids[self.shown..]),
        }
    }
}
