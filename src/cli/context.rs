//! What every command runs with.

use std::path::Path;

use super::output::Terminal;
use crate::base::{Progress, Result};
use crate::tensor::Device;
use crate::text::Tokenizer;

/// What a command runs with.
pub(super) struct Context {
    /// Where it computes.
    pub device: Device,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Whether the result is JSON.
    pub json: bool,
    /// Where it prints.
    pub terminal: Terminal,
}

impl Context {
    /// Opens a folder's tokenizer, and warns where the reference framework gives other ids.
    pub fn tokenizer(&self, dir: &Path) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::open(dir)?;
        self.warn_of(&tokenizer);
        Ok(tokenizer)
    }

    /// Warns of ids that differ from the reference framework's, where no edit does.
    pub fn warn_of(&self, tokenizer: &Tokenizer) {
        if let Some(difference) = &tokenizer.difference {
            self.terminal.warn(difference);
        }
    }
}
