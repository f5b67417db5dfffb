//! What compiles and runs kernels: the grammar of their files, and the host that must bite.

mod grammar;
mod planted;
mod warp;
