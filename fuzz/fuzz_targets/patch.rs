//! A patch file is refused, or it is what is read back after it was written again.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use incise::store::Patch;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// Patches are mapped, so they need a file; that no map of it lives when it is written again is
/// what `Patch::read` promises by owning its values.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder"));

fn file(name: &str) -> PathBuf {
    FOLDER.path().join(name)
}

fuzz_target!(|bytes: &[u8]| {
    let path = file("in");
    fs::write(&path, bytes).expect("a file");
    let Ok(patch) = Patch::read(&path) else { return };
    let again = file("again");
    patch.write(&again).expect("what was read can be written");
    assert_eq!(Patch::read(&again).expect("and read again"), patch);
});
