//! Floor 7: what a model knows, and where: causal tracing.

pub mod trace;
