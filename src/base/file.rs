//! Whole input files, read in one way: a pipe, a device or a file of absurd size is refused.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::error::{Error, Result};

/// Opens a file to read it.
///
/// # Errors
///
/// No such file, or one that is no regular file: a pipe may never end.
pub fn open_file(path: &Path) -> Result<File> {
    let failed = |e| Error::io(path, "read", e);
    if !fs::metadata(path).map_err(failed)?.is_file() {
        let what = "is a folder, a pipe or a device";
        return Err(Error::input(path, "file", what, "write it to a file and name that"));
    }
    File::open(path).map_err(failed)
}

/// Refuses a file in a folder's place.
///
/// # Errors
///
/// That.
pub fn check_folder(dir: &Path) -> Result<()> {
    if dir.is_file() {
        return Err(Error::input(dir, "folder", "is a file", "name a folder"));
    }
    Ok(())
}

/// Makes a folder and those above it, where they are not there.
///
/// # Errors
///
/// A file in its place; what the system refuses.
pub fn make_folder(dir: &Path) -> Result<()> {
    check_folder(dir)?;
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, "create", e))
}

/// How a file begins that stands for one which Git keeps elsewhere (Git LFS).
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// Refuses a Git LFS pointer in a file's place; `head` is how the file begins.
///
/// # Errors
///
/// A pointer.
pub fn check_pointer(path: &Path, head: &[u8]) -> Result<()> {
    if !head.starts_with(POINTER) {
        return Ok(());
    }
    let what = "is a Git LFS pointer: the file itself was not downloaded";
    Err(Error::input(path, "file", what, "run `git lfs pull` in its folder, or download it again"))
}

/// The bytes of a file of at most `most` bytes, which is far above any real one of its kind.
///
/// # Errors
///
/// As [`open_file`]; a larger file, one that cannot be read, a Git LFS pointer.
pub fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (mut file, failed) = (open_file(path)?, |e| Error::io(path, "read", e));
    let mut bytes = Vec::new();
    let mut size = file.metadata().map_err(failed)?.len();
    if size <= most {
        // It may grow meanwhile.
        size =
            Read::by_ref(&mut file).take(most + 1).read_to_end(&mut bytes).map_err(failed)? as u64;
    }
    if size > most {
        let what = format!("has more than {most} bytes, too many for a file of its kind");
        return Err(Error::input(path, "size", what, "check that it is the file you mean"));
    }
    check_pointer(path, &bytes)?;
    Ok(bytes)
}

/// The text of a file of at most `most` bytes.
///
/// # Errors
///
/// As [`read_file`]; bytes that are not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_file(path, most)?).map_err(|e| {
        let what = format!("is not UTF-8 after byte {}", e.utf8_error().valid_up_to());
        Error::input(path, "text", what, "save it as UTF-8")
    })
}
