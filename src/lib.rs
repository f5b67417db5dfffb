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
//! 7  bench                    how close to the machine's limits
//! 6  edit                     facts → changes
//! 5  stats                    key second moments
//! 4  model                    families, forward, backward, sites
//! 3  ops  linalg              what can be computed
//! 2  tensor                   where it lives
//! 1  store  gpu  text  data   bytes, device, tokens, cases
//! 0  base                     errors, element types, random numbers
//! ```

pub mod base;
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod edit;
pub mod editor;
pub mod gpu;
pub mod linalg;
pub mod model;
pub mod ops;
pub mod stats;
pub mod store;
pub mod tensor;
pub mod text;

pub use base::{Error, Result};
pub use data::Request as Fact;
pub use editor::{Edit, Editor, Prepared, TextModel, log, undo};

/// README's example, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
