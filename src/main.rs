//! The program `incise`. Everything is in the library; this is its door for people.

use std::process::ExitCode;

fn main() -> ExitCode {
    incise::cli::main()
}
