mod dtype;
mod error;
