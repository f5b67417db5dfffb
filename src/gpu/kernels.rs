//! The kernels of `kernels/*.cu`, a module a file: constants, images, a launcher a kernel.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
