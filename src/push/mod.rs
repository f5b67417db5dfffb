//! Floor 7: an edit into a running server, and back.
//!
//! ```text
//! folders under DIR ──► checked ──► prompts asked ──► server told ──► the same prompts asked
//! ```
//!
//! Start reading at [`run`]. The server sees DIR under the same path ([`folders`]). What a server
//! is told, and in which state a failure leaves it, is a file a server; what they have in common
//! is [`server`]. An edit is at one of two sides: `PatchSide::Before`, the server as it was
//! started, and `PatchSide::After`.

pub mod client;
pub mod folders;
mod llamacpp;
mod mistralrs;
mod openai;
pub mod questions;
pub mod run;
pub mod server;
mod sglang;
mod vllm;
