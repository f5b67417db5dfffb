//! Floor 1: tokens.

mod chat;
mod layouts;
mod span;
mod stream;
mod tokenizer;
pub mod toys;
mod vocabulary;
