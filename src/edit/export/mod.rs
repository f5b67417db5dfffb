//! What programs that serve a model take of a patch: an adapter beside the weights, or differences
//! of the weights' files.

pub mod adapter;
pub mod gguf;
pub mod versions;
pub mod widened;
