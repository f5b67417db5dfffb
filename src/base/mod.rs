//! Floor 0: what every other module needs and nothing of what they do.

pub mod dtype;
pub mod error;
pub mod escape;
pub mod file;
pub mod float;
pub mod json;
pub mod memory;
pub mod progress;
pub mod random_state;
pub mod ranges;
pub mod remedy;
pub mod rng;
pub mod share;
pub mod stages;
pub mod units;
pub mod unwind;

pub use dtype::DType;
pub use error::{Error, Result};
pub use float::Float;
pub use progress::{Progress, Quiet};
pub use random_state::RandomState;
pub use remedy::{Operation, Remedy};
pub use rng::Rng;
pub use share::Share;
pub use stages::Stage;
pub use unwind::{catch_device_error, or_unwind};
