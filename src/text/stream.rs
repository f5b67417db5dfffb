//! Decoding ids one at a time as they are generated: several tokens may form one character, and a
//! SentencePiece-style decoder treats a token at the start of a text differently.

use super::tokenizer::Tokenizer;
use crate::base::Result;

/// Decodes one token at a time and withholds text until it ends in a whole character.
pub struct DecodeStream<'t> {
    tok: &'t Tokenizer,
    /// The ids returned last (`..returned`), on which decoding the rest depends, and those
    /// withheld.
    ids: Vec<u32>,
    returned: usize,
}

impl<'t> DecodeStream<'t> {
    /// A stream that continues `context`, the prompt's ids, whose text is not repeated.
    pub fn new(tok: &'t Tokenizer, context: &[u32]) -> Self {
        DecodeStream { tok, ids: context.to_vec(), returned: context.len() }
    }

    /// The text that `id` completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// A tokenizer that cannot decode the ids.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.withheld()?;
        if text.is_empty() || text.ends_with('\u{FFFD}') {
            return Ok(String::new());
        }
        self.ids.drain(..self.returned);
        self.returned = self.ids.len();
        Ok(text)
    }

    /// The text that is still withheld, incomplete characters as U+FFFD.
    ///
    /// # Errors
    /// A tokenizer that cannot decode the ids.
    pub fn finish(self) -> Result<String> {
        self.withheld()
    }

    fn withheld(&self) -> Result<String> {
        let before = self.tok.decode(&self.ids[..self.returned])?;
        match self.tok.decode(&self.ids)?.strip_prefix(&before) {
            Some(text) => Ok(text.to_string()),
            // A byte that fits nothing can change how the bytes before it decode.
            None => self.tok.decode_after(&self.ids[self.returned..]),
        }
    }
}
