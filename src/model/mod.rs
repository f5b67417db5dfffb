//! Floor 4: transformer decoders, forward and backward. There is one decoder, driven by data: a
//! family is a row in [`families`], not a file of code.
//!
//! Start reading at [`decoder`], then [`layer`], and the bodies of its branches, [`attention`] and
//! [`mlp`]: each is forward and backward side by side.

pub mod arch;
mod assemble;
pub mod attention;
pub mod batch;
pub mod branch;
pub mod cache;
pub mod change;
pub mod completion;
pub mod config;
pub mod decoder;
pub mod divergence;
pub mod families;
pub mod family;
mod fields;
pub mod generate;
pub mod gguf;
pub mod gradients;
pub mod language_model;
pub mod layer;
pub mod lineage;
pub mod load;
pub mod matrix;
pub mod matrix_id;
pub mod matrix_rows;
pub mod mlp;
#[allow(clippy::module_inception)]
pub mod model;
mod own;
mod pass;
pub mod peers;
pub mod prefix;
mod proof;
pub mod random;
pub mod rotary;
pub mod run;
pub mod score;
mod shared;
pub mod site;
pub mod span;
pub mod token_bytes;

pub use arch::Arch;
pub use batch::Batch;
pub use cache::{Choice, KvCache, Past};
pub use family::Family;
pub use language_model::LanguageModel;
pub use layer::Layer;
pub use lineage::fingerprint;
pub use matrix::{Linear, Matrix, StoredPlace};
pub use matrix_id::{MatrixId, Stack};
pub use model::{Model, SearchPrecision};
pub use run::Run;
pub use site::{At, Hook, NoHook, Site};
pub use span::{Position, Span};
