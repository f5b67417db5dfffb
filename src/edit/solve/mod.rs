//! From values to changed matrices: layer by layer, by the host or the device.

pub mod delta;
pub mod device;
pub mod layers;
pub mod window;
