//! Floor 1: what is to be edited and what it is measured with: requests, contexts, running text.

pub mod broken;
mod case;
pub mod conflicts;
pub mod contexts;
pub mod corpus;
mod counterfact;
mod easyedit;
mod known;
mod mquake;
mod qna;
mod record;
pub mod request;
mod text_file;
mod wikibigedit;
mod word;
mod zsre;

pub use case::{Fact, Probe};
pub use contexts::Contexts;
pub use corpus::Corpus;
pub use known::{KnownFact, known};
