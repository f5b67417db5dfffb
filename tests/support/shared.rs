//! Public data sets and small trained models that are no part of the repository.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A file or folder of the shared data: under `INCISE_SHARED`, else under `../shared/data`. Where
/// it is missing, says which test is skipped.
pub fn shared(test: &str, name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("INCISE_SHARED") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    // Not by a print macro: the harness would keep it back from a test that passes.
    let line = format!("skipped: {test}: no {name} under {}\n", root.display());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}
