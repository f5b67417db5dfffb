//! Floor 1: text to tokens and back, and the last token of a fact's subject.

mod added;
mod answer;
pub mod chat;
mod class;
mod jinja;
mod pre_tokenizers;
pub mod seam;
mod sources;
pub mod span;
pub mod stream;
pub mod tokenizer;
mod two_files;
pub mod vocabulary;

pub use chat::{Chat, ChatSettings, Frame};
pub use span::{FilledTemplate, subject_token};
pub use stream::DecodeStream;
pub use tokenizer::{Encoded, Tokenizer};
pub use vocabulary::{Spaces, Vocabulary};
