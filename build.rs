//! Tells the program which commit it was built from; `unknown` outside a checkout.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    let said = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = said.ok().filter(|o| o.status.success()).map(|o| o.stdout).unwrap_or_default();
    let commit = String::from_utf8(commit).unwrap_or_default();
    let commit = if commit.trim().is_empty() { "unknown" } else { commit.trim() };
    println!("cargo::rustc-env=INCISE_COMMIT={commit}");
}
