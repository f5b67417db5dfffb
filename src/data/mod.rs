//! Floor 1: what is to be edited and what it is measured with: requests, contexts, running text.

pub mod conflicts;
pub mod contexts;
pub mod corpus;
mod counterfact;
mod easyedit;
pub mod json;
mod mquake;
mod record;
pub mod request;
mod zsre;

pub use contexts::Contexts;
pub use corpus::Corpus;
pub use request::{Probe, Request};
