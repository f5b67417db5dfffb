//! Known answers: what every kernel should give, asked of a device before it is trusted.
//!
//! ```text
//! ask            at a device's start: what was proved before, what is asked now
//! cases          a file of kernels, compiled for some types: its trials
//! instruments    what tensor cores and functions are worth
//! trial          a kernel's launches on arrays in a fenced block, repeated and recorded
//! weight         products with a model's own matrices, of thousands of rows
//! library        a library's products beside our kernels'
//! solver         a library's factor and solve beside our kernels'
//! numbers        inputs that are a hash of their place, most of them whole
//! act …          the trials: inputs, launches, and what the definitions in `ops/cpu` give for the
//!                same in f64, equal where the kernel is exact on them, else within a bound that
//!                the head of the file derives
//! ```

mod act;
pub mod ask;
mod attention;
pub mod cases;
mod cholesky;
mod codebook;
mod gram;
pub mod instruments;
pub mod library;
mod linear;
mod loss;
mod norm;
pub mod numbers;
pub mod probe;
mod rows;
mod sample;
mod search;
pub mod solver;
pub mod trial;
mod update;
pub mod weight;
mod weight_gradient;

pub use ask::{Asked, ask, of_kernels, start};
pub use cases::{Fault, KnownAnswer, known_answers};
pub use instruments::Instruments;
pub use trial::{Trial, Wrong};
