//! Floor 1: tokens.

mod chat;
mod prompt;
mod span;
mod stream;
mod tokenizer;
mod toys;
