//! The program as people run it.

mod apply_gguf;
mod commands;
mod eval;
mod gguf;
mod governor;
mod inspect;
mod methods;
mod neurons;
mod predict;
mod readme;
mod spread;
mod terminal;
mod trace;
mod tune;
