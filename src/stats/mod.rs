//! Floor 5: second moments C = E[k kᵀ] of keys, and of what other matrices read: collected from
//! text, kept on disk, factored for use.

pub mod collect;
pub mod covariance;
pub mod file;
pub mod import;
pub mod input;
pub mod merge;
pub mod normed;
pub mod origin;
pub mod partial;

pub use collect::collect;
pub use covariance::Covariance;
pub use file::Moment;
pub use input::{Input, LayerInput};
pub use origin::{Collect, Origin, Part};
