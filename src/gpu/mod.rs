//! Floor 1: the GPU as the driver shows it. The driver is opened at run time; a machine without
//! one runs the same program.

pub mod driver;

pub use driver::{Gpu, gpus};
