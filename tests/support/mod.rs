//! What the tests share: budgets, recorded goldens, folders.

pub mod budget;
pub mod cancel;
pub mod fused;
pub mod gguf;
pub mod golden;
pub mod programs;
pub mod projection;
pub mod ptx;
pub mod session;
pub mod shared;
pub mod toy;
pub mod twin;

use std::path::PathBuf;

/// The checkout: where the tests were built, or what `INCISE_ROOT` names.
pub fn root() -> PathBuf {
    std::env::var_os("INCISE_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}
