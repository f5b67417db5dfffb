//! Floor 5: key second moments C = E[k kᵀ], collected from text, kept on disk, factored for use.

pub mod collect;
pub mod covariance;
pub mod file;
pub mod import;
pub mod merge;
pub mod origin;
pub mod partial;

pub use collect::collect;
pub use covariance::Covariance;
pub use file::Moment;
pub use origin::{Collect, Origin, Part};
