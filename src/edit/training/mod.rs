//! Training of a few matrices on the texts of facts: what fine-tuning methods share.
//!
//! Start reading at [`run`], the epochs; then [`step`], a batch's gradient and Adam's step.

pub mod below;
pub mod calibration;
pub mod capture;
pub mod head;
pub mod kept;
pub mod kept_turns;
pub mod kept_work;
pub mod memory;
pub mod neurons;
pub mod normaliser;
pub mod passes;
pub mod patches;
pub mod run;
pub mod step;
pub mod texts;
pub mod value;
