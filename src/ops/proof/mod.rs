//! Known answers: what every kernel should give, asked of a device before it is trusted.
//!
//! ```text
//! cases          a file of kernels, compiled for some types: its trials
//! trial          a kernel's launches on arrays in a fenced block, repeated and recorded
//! numbers        inputs that are a hash of their place, most of them whole
//! act … update   the trials: inputs, launches, and what the definitions in `ops/cpu` give for the
//!                same in f64, equal where the kernel is exact on them, else within a bound that
//!                the head of the file derives
//! ```

mod act;
mod attention;
pub mod cases;
mod cholesky;
mod gram;
mod linear;
mod loss;
mod norm;
pub mod numbers;
mod probe;
mod rows;
mod sample;
mod search;
pub mod trial;
mod update;

pub use cases::{Fault, KnownAnswer, known_answers};
pub use trial::{Trial, Wrong};
