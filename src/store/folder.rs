//! Making a folder that appears whole or not at all, and copying one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::history;
use super::write::sync_dir;
use crate::base::{Error, Progress, Result};

/// Makes the folder `out`: `fill` gets a temporary sibling, which becomes `out` once it is done.
///
/// # Errors
///
/// A file, or a folder that is not empty, of that name; what `fill` returns; what the system
/// refuses. Nothing is left behind then.
pub fn build<T>(out: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let free = !out.exists() || fs::read_dir(out).is_ok_and(|mut files| files.next().is_none());
    if !free {
        let remedy = "name a folder that does not exist yet";
        return Err(Error::input(out, "folder", "is there and not empty", remedy));
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, "create", e))?;
    let dir = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o777)) // what the system's mask leaves of it
        .tempdir_in(parent)
        .map_err(|e| Error::io(parent, "make a folder in", e))?;
    let made = fill(dir.path())?;
    sync_dir(dir.path())?;
    fs::rename(dir.path(), out).map_err(|e| Error::io(out, "create", e))?;
    let _ = dir.keep(); // it has another name now: nothing to clean up
    sync_dir(parent)?;
    Ok(made)
}

/// Copies every file of a model folder but its journal, following links. Where the file system can
/// share blocks between copies, they are shared until one is written.
///
/// # Errors
///
/// `to` lies inside `from`; what the system refuses; a cancellation, seen between two files.
pub fn copy(from: &Path, to: &Path, progress: &dyn Progress) -> Result<()> {
    let whole = |p: &Path| fs::canonicalize(p).map_err(|e| Error::io(p, "find", e));
    if whole(to)?.starts_with(whole(from)?) {
        let what = format!("a copy of {} cannot be inside it", from.display());
        return Err(Error::refused(what, "name a folder elsewhere"));
    }
    copy_files(from, to, &|name| name == history::FOLDER, progress)
}

fn copy_files(
    from: &Path,
    to: &Path,
    skip: &dyn Fn(&str) -> bool,
    progress: &dyn Progress,
) -> Result<()> {
    let listed = fs::read_dir(from).map_err(|e| Error::io(from, "list", e))?;
    for file in listed {
        let file = file.map_err(|e| Error::io(from, "list", e))?;
        let path = file.path();
        let copy = to.join(file.file_name());
        if skip(&file.file_name().to_string_lossy()) {
            continue;
        }
        if progress.cancelled() {
            return Err(Error::Interrupted { kept: "nothing was written".into() });
        }
        let failed = |e| Error::io(&path, "copy", e);
        if path.is_dir() {
            fs::create_dir(&copy).map_err(failed)?;
            copy_files(&path, &copy, &|_| false, progress)?;
            sync_dir(&copy)?;
        } else {
            reflink_copy::reflink_or_copy(&path, &copy).map_err(failed)?;
            let sync = File::open(&copy).and_then(|f| f.sync_all());
            sync.map_err(|e| Error::io(&copy, "sync", e))?;
        }
    }
    Ok(())
}

/// Opens a file of a copy for writing, whether or not its original may be written.
pub fn writable(path: &Path) -> Result<File> {
    let failed = |e| Error::io(path, "write to", e);
    let mut permissions = fs::metadata(path).map_err(failed)?.permissions();
    permissions.set_mode(permissions.mode() | 0o200);
    fs::set_permissions(path, permissions).map_err(failed)?;
    OpenOptions::new().write(true).open(path).map_err(failed)
}
