//! Places for outputs, checked before any work.

use std::fs;
use std::path::{Path, PathBuf};

use super::history::History;
use super::write;
use crate::base::{Error, Result};

/// Refuses, before any work, a file that could not be written after it, or that would replace one
/// of the `inputs` (files, or folders with all that is in them).
pub fn check_place(file: &Path, inputs: &[&Path]) -> Result<()> {
    let folder = write::folder(file);
    if file.is_dir() || file.file_name().is_none() {
        return Err(Error::input(file, "output", "is a folder", "name a file"));
    }
    let place = folder.canonicalize().map_err(|e| Error::io(folder, "open", e))?;
    let place = place.join(file.file_name().unwrap_or_default());
    let inputs = inputs.iter().filter_map(|input| input.canonicalize().ok());
    if inputs.into_iter().any(|input| place.starts_with(input)) {
        let what = "would be written over what the command reads";
        return Err(Error::input(file, "output", what, "name a file elsewhere"));
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // A journal that cannot be read is nobody's here.
    let history = History::read(folder);
    if history.is_ok_and(|history| history.files().any(|changed| changed == name)) {
        let what = "was changed in place, and its journal would be of another file";
        return Err(Error::input(file, "output", what, "undo the changes, or name another file"));
    }
    // What can be made there now can, most likely, be made there later.
    let made = tempfile::tempfile_in(folder).map(drop);
    made.map_err(|e| Error::io(folder, "write a file in", e))
}

/// Refuses a new folder that something stands in the place of, or that would lie inside one of the
/// `inputs`.
pub fn check_new_folder(dir: &Path, inputs: &[&Path]) -> Result<()> {
    if dir.exists() && !fs::read_dir(dir).is_ok_and(|mut files| files.next().is_none()) {
        let remedy = "name a folder that does not exist yet";
        return Err(Error::input(dir, "folder", "is there and not empty", remedy));
    }
    check_outside(dir, inputs)
}

/// Refuses a folder inside one of the `inputs`.
pub fn check_outside(dir: &Path, inputs: &[&Path]) -> Result<()> {
    let place = whole(dir);
    if inputs.iter().any(|input| place.starts_with(whole(input))) {
        let what = "would be written inside what the command reads";
        return Err(Error::input(dir, "folder", what, "name a folder elsewhere"));
    }
    Ok(())
}

/// The whole path of something that need not be there yet.
fn whole(path: &Path) -> PathBuf {
    let mut there = path;
    loop {
        if let Ok(found) = there.canonicalize() {
            let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
            return found.join(rest);
        }
        match there.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => there = parent,
            _ => return Path::new(".").canonicalize().unwrap_or_default().join(path),
        }
    }
}

/// Refuses outputs of one name, and one that lies inside another before it.
pub fn check_distinct(outputs: &[&Path]) -> Result<()> {
    let places: Vec<PathBuf> = outputs.iter().map(|file| whole(file)).collect();
    for (i, file) in outputs.iter().enumerate() {
        let inside = |other: &PathBuf| places[i].starts_with(other);
        if places[..i].iter().any(inside) || places[i + 1..].contains(&places[i]) {
            let what = "is the place of another output";
            return Err(Error::input(file, "output", what, "name a file elsewhere"));
        }
    }
    Ok(())
}

/// Refuses a place where something stands that is not `ours`, which would be lost.
pub fn check_replaced(file: &Path, ours: bool, what: &str) -> Result<()> {
    if ours || !file.exists() {
        return Ok(());
    }
    let what = format!("stands there already and is no {what}, or a damaged one");
    Err(Error::input(file, "output", what, "name another file, or remove this one"))
}
