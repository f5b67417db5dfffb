//! The program as people run it.

mod commands;
mod readme;
mod spread;
mod terminal;
