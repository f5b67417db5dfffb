//! Causal tracing (Meng et al. 2022, arXiv:2202.05262, section 2): which states of a model carry a
//! fact. The subject is corrupted by noise, single states are restored, and what comes back of the
//! answer's probability is the state's effect.

pub mod average;
pub mod heat_map;
pub mod noise;
pub mod protocol;
pub mod report;
pub mod restore;

pub use average::{AverageEffects, EditLayers, TokenRole};
pub use heat_map::HeatMap;
pub use protocol::{CausalTrace, TraceOutcome, TraceSettings, TracedPrompt};
pub use restore::{PromptRuns, Restoration, TracedState};
