//! A GGUF file as a checkpoint of the framework: its configuration, its tokenizer, its tensors.
//!
//! | file | is |
//! | --- | --- |
//! | `rows` | the architectures that are families of ours, a row each |
//! | `keys` | the pairs of a file by name |
//! | `config` | pairs to `config.json` |
//! | `tensors` | which tensor is which, and how its rows lie |
//! | `tokenizer` | the vocabulary's pairs to a vocabulary |
//! | `import` | all of it into a new folder |

mod config;
pub mod import;
mod keys;
mod rows;
mod tensors;
mod tokenizer;

pub use import::{GgufModel, import};
pub use tensors::{LayerMatrix, Rows, matrices_in_llamacpp};
