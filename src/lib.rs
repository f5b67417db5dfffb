//! incise edits facts inside transformer language models, in the weights themselves.
//!
//! A checkpoint is opened by memory map, run forward and backward by our own code, and changed by
//! a low-rank update of a few MLP matrices, which is written into the safetensors bytes, handed on
//! as a patch, or undone.
//!
//! # The alphabet
//!
//! | letter | is | letter | is |
//! | --- | --- | --- | --- |
//! | N | tokens in the batch, sequences end to end, no padding | D | width of the residual stream |
//! | S | sequences | F | width inside the MLP |
//! | L | layers; `l` one of them | H, G, E | query heads, key/value heads, width of a head |
//! | V | vocabulary | `x` | residual stream (N, D) |
//! | `k`, `v` | MLP key (F) and value (D) in edits | `q`, `k`, `v` | attention's, in the decoder |
//! | `dx` | ∂loss/∂x, same shape as x | `W` | (out, in) whatever the checkpoint stores |
//!
//! # The floors
//!
//! A module uses floors below its own, never its own or above; `tests/architecture.rs` enforces it.
//!
//! ```text
//! 9  cli                      arguments, printing, exit codes
//! 8  editor                   the front door: open, plan, write, apply, export, undo
//! 7  eval  bench  push        does an edit hold, where facts are; limits; running servers
//! 6  edit                     facts → changes
//! 5  stats  memory  train     key second moments; edits beside the weights; training of editors
//! 4  model                    families, forward, backward, sites
//! 3  ops  linalg              what can be computed
//! 2  tensor                   where it lives
//! 1  store  gpu  text  data   bytes, device, tokens, cases
//! 0  base                     errors, element types, random numbers
//! ```

// Everything below the front door is public for tests, tools and the command line, and may change
// with any version; what a program may rely on is named here.
#[doc(hidden)]
pub mod base;
#[doc(hidden)]
pub mod bench;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod data;
#[doc(hidden)]
pub mod edit;
pub mod editor;
#[doc(hidden)]
pub mod eval;
#[doc(hidden)]
pub mod gpu;
#[doc(hidden)]
pub mod linalg;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod ops;
#[cfg(feature = "push")]
#[doc(hidden)]
pub mod push;
#[doc(hidden)]
pub mod stats;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod tensor;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod train;

pub use base::remedy::Remedy;
pub use base::{DType, Error, Progress, Result, Share, Stage};
pub use data::broken::{Broken, OnBroken};
pub use data::conflicts::OnConflict;
pub use data::{Contexts, Fact};
pub use edit::apply::TensorBytes;
pub use edit::fact_report::{FactPlan, FactReport};
pub use edit::solve::layers::MatrixChange;
pub use editor::{Artifact, Edit, Editor, Prepared, TextModel, log, undo};
pub use model::{Matrix, MatrixId, Stack};
pub use store::Patch;
pub use tensor::Device;
pub use text::ChatSettings;

/// The example of docs/library.md, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
struct Library;
