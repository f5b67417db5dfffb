//! An npz file is refused, or holds a second moment: finite, symmetric, of some tokens.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use incise::stats::import;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder"));
const F: usize = 3;

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("layer.npz");
    fs::write(&path, bytes).expect("a file");
    let Ok(moment) = import::npz(&path, 0, F, "model") else { return };
    let c = &moment.second_moment;
    assert!(moment.tokens > 0 && c.len() == F * F);
    for (i, j) in (0..F).flat_map(|i| (0..F).map(move |j| (i, j))) {
        assert!(c[i * F + j].is_finite() && c[i * F + j] == c[j * F + i]);
    }
});
