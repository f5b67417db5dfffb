//! One test binary: a folder a floor.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod base;
mod edit;
mod ops;
mod store;
