//! What every command runs with.

use super::output::Terminal;
use crate::tensor::Device;

/// What a command runs with.
pub(super) struct Context {
    /// Where it computes.
    pub device: Device,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Whether the result is JSON.
    pub json: bool,
    /// Where it prints.
    pub terminal: Terminal,
}
