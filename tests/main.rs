//! One test binary: a folder a floor.

mod model;
mod support;
