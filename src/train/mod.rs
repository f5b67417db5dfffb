//! Floor 5: training of what edits. A method says what the loss of a sample is and how its gradient
//! is had ([`SampleObjective`]); the rest is here, once for all of them.
//!
//! ```text
//! samples ── draw ──► gradient of each of a batch ── clip, Adam ──► parameters ── look ──► best
//!   edit, outer, locality    the method's                 Parameters      held-out samples
//! ```
//!
//! Where a training is, is kept, and one that was cut off goes on to the same bytes.

pub mod head;
pub mod kept;
pub mod layers;
pub mod lstm;
pub mod objective;
pub mod parameters;
pub mod pass;
pub mod rms_prop;
pub mod run;
pub mod samples;
pub mod trained_editor;

pub use objective::{Drawn, LocalityText, SampleLoss, SampleObjective};
pub use parameters::Parameters;
pub use samples::Sample;
pub use trained_editor::TrainedEditor;
