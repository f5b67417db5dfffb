//! Floor 1: text to tokens and back, and where in them the subject of a fact ends.

pub mod chat;
mod jinja;
pub mod legacy;
pub mod span;
pub mod stream;
pub mod tokenizer;

pub use chat::{Chat, Frame};
pub use span::{Place, subject_token};
pub use stream::Stream;
pub use tokenizer::{Encoded, Tokenizer};
