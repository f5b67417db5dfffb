//! GGUF, the file format of llama.cpp: one file of metadata, vocabulary and weights, most of them
//! quantised.
//!
//! | file | is |
//! | --- | --- |
//! | `header` | what precedes the weights: read, validated, refused |
//! | `file` | one mapped file |
//! | `block_types` | the types of blocks, a row each |
//! | `grid` | what quantised blocks share: codes on a grid |
//! | `steps` | where each type keeps the scales and offsets of its grid |
//! | `rewrite` | a copy in which some tensors have other types |
//!
//! Source: llama.cpp's `gguf.md` and `ggml-common.h`.

pub mod block_types;
pub mod file;
pub mod grid;
pub mod header;
pub mod rewrite;
mod steps;

pub use block_types::{BlockType, Content};
pub use file::{GgufFile, is_gguf};
pub use grid::{BlockGrid, Step};
pub use header::{GgufHeader, GgufTensor, MetadataValue};
