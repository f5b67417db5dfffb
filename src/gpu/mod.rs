//! Floor 1: the GPU. The driver is opened at run time; a machine without one runs the same program.

pub mod blaslt;
mod context;
pub mod cuda;
pub mod driver;
pub mod engine;
pub mod graph;
pub mod image;
pub mod kernels;
pub mod launch;
pub mod library;
pub mod nvrtc;
pub mod pool;
pub mod resident;
pub mod solver;
pub mod twin;
mod upload;

pub use driver::{Gpu, gpus};
pub use engine::{Array, Engine};
