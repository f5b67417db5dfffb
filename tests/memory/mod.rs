//! Floor 5: edits beside the weights.

mod codebook;
mod command;
mod context;
mod files;
mod serac;
