//! The program `incise`: run, print the error chain, choose the exit code.

fn main() {}
