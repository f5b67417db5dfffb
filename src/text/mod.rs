//! Floor 1: text to tokens and back, and the last token of a fact's subject.

mod answer;
pub mod chat;
mod jinja;
pub mod legacy;
pub mod span;
pub mod stream;
pub mod tokenizer;

pub use chat::{Chat, ChatSettings, Frame};
pub use span::{FilledTemplate, subject_token};
pub use stream::DecodeStream;
pub use tokenizer::{Encoded, Tokenizer};
