//! Who may touch a checkpoint: one writer, or any number that open it for reading.
//!
//! The lock is the system's own on `.incise/lock` and ends with the process that holds it, however
//! that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::base::{Error, Result};

/// A held lock; dropping it lets go.
pub struct Lock(#[allow(dead_code)] File); // held for its lifetime

const NAME: &str = "lock";

impl Lock {
    /// The writer's lock of a journal folder, which exists.
    ///
    /// # Errors
    ///
    /// Another process writes or opens the checkpoint; a folder that cannot be written.
    pub fn exclusive(folder: &Path) -> Result<Lock> {
        let path = folder.join(NAME);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Error::io(&path, "write to", e))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(e) => Err(refused(&path, e, "opening or changing")),
        }
    }

    /// A reader's lock; `None` where nothing was ever changed, so that there is nothing to lock.
    ///
    /// # Errors
    ///
    /// Another process writes the checkpoint.
    pub fn shared(folder: &Path) -> Result<Option<Lock>> {
        let path = folder.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        let file = File::open(&path).map_err(|e| Error::io(&path, "open", e))?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(e) => Err(refused(&path, e, "changing")),
        }
    }
}

fn refused(path: &Path, why: TryLockError, doing: &str) -> Error {
    match why {
        TryLockError::Error(e) => Error::io(path, "lock", e),
        TryLockError::WouldBlock => {
            let what = format!("another process is {doing} this checkpoint");
            Error::input(path, "lock", what, "wait until it is done and start again")
        }
    }
}
