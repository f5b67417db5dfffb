//! Floor 1: what is to be edited and what it is measured with: requests, contexts, running text.

pub mod broken;
mod case;
mod cases;
pub mod conflicts;
pub mod contexts;
pub mod corpus;
mod counterfact;
mod demonstrations;
mod easyedit;
mod fact;
mod forms;
pub mod kinds;
mod known;
mod mquake;
mod native;
mod qna;
mod record;
pub mod request;
mod snippets;
pub mod task;
mod text_file;
mod values;
mod wikibigedit;
mod word;
mod zsre;

pub use case::{Background, Case, Form, Hop, Probe, Role};
pub use cases::{Cases, cases};
pub use contexts::Contexts;
pub use corpus::Corpus;
pub use demonstrations::Demonstrations;
pub use fact::{Continuation, Fact};
pub use known::{KnownFact, known};
pub use snippets::Snippets;
pub use task::{TaskDocument, TaskQuestion};
