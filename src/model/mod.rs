//! Floor 4: transformer decoders, forward and backward. There is one decoder, driven by data: a
//! family is a row in [`families`], not a file of code.
//!
//! Start reading at [`decoder`], then [`backward`], which reads the same lines from the bottom up.

pub mod arch;
pub mod backward;
pub mod batch;
pub mod cache;
pub mod config;
pub mod decoder;
pub mod families;
pub mod family;
pub mod generate;
pub mod load;
#[allow(clippy::module_inception)]
pub mod model;
pub mod peers;
pub mod prefix;
mod proof;
pub mod random;
pub mod rotary;
pub mod score;
pub mod site;

pub use arch::Arch;
pub use batch::Batch;
pub use cache::KvCache;
pub use decoder::Run;
pub use family::Family;
pub use load::fingerprint;
pub use model::{Linear, Model, SearchPrecision};
pub use site::{At, Site};
