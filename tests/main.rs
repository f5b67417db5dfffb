//! One test binary: a folder a floor.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking, and a skipped test says so"
)]

mod architecture;
mod base;
mod cli;
mod data;
mod edit;
mod editor;
mod eval;
mod gpu;
mod hostile;
mod linalg;
mod memory;
mod model;
mod ops;
mod push;
mod stats;
mod store;
mod support;
mod text;
