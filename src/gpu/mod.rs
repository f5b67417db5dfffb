//! Floor 1: the GPU. The driver is opened at run time; a machine without one runs the same program.

pub mod array;
pub mod blaslt;
mod context;
pub mod cuda;
pub mod cusolver;
pub mod driver;
pub mod engine;
pub mod graph;
pub mod image;
pub mod kernels;
pub mod launch;
pub mod library;
mod lock;
pub mod nvrtc;
pub mod pool;
pub mod proof;
mod resident;
pub mod staging;
mod turns;
pub mod twin;
mod upload;
pub mod weights;

pub use array::Array;
pub use driver::{Gpu, gpus};
pub use engine::Engine;
pub use proof::Proof;
pub use turns::Hold;
