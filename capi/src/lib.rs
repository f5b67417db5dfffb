//! incise for C: a thin skin over [`incise::Editor`], with no rule of its own.
//!
//! `incise.h` is made from the comments here, and is a C programmer's only page; what holds for all
//! of it stands at its head (`cbindgen.toml`). A test says how to write it again.
//!
//! ```text
//! border     arguments in, results and errors out, panics caught
//! error      what went wrong
//! progress   callbacks
//! editor     open, plan
//! edit       what can be done with an edit; undo
//! tensors    what it changes, as bytes
//! ```
//!
//! Pointers that the caller may not have set are `Option`s or raw: a null pointer is an error and
//! not undefined. What a function asks of a pointer is in its comment, in words for C.

// The comments go into the header, where `# Safety` and `# Errors` would be noise: what every
// pointer must be is said there once.
#![allow(clippy::missing_safety_doc)]

// In the order of the header; a blank line keeps the formatter from sorting them.
mod border;

pub mod error;

pub mod progress;

pub mod editor;

pub mod edit;

pub mod tensors;

use std::ffi::c_char;

/// The version of the library, as "0.1.0". It stays, and is not freed.
#[unsafe(no_mangle)]
pub extern "C" fn incise_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
