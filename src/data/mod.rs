//! Floor 1: what is to be edited and what it is measured with: requests, contexts, running text.

mod case;
pub mod conflicts;
pub mod contexts;
pub mod corpus;
mod counterfact;
mod easyedit;
mod mquake;
mod record;
pub mod request;
mod text_file;
mod zsre;

pub use case::{Fact, Probe};
pub use contexts::Contexts;
pub use corpus::Corpus;
