//! Floor 1: tokens.

mod prompt;
mod span;
mod stream;
mod tokenizer;
mod toys;
