//! What compiles and runs kernels: the grammar of their files, and the host that must bite.

mod card;
mod commands;
mod compiled;
mod driver;
mod grammar;
mod graph;
mod image;
mod instructions;
mod library;
mod machine_code;
mod memory;
mod mutants;
mod planted;
mod probe;
mod proof;
mod sizes;
mod turns;
