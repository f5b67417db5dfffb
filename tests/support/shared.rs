//! Public data sets and small trained models that are no part of the repository.

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
    eprintln!("skipped: {test}: no {}", path.display());
    None
}
