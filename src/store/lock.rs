//! Who may touch a checkpoint: one writer, or any number that open it for reading.
//!
//! The lock is the system's own on a file, `.incise/lock`, and ends with the process that holds it,
//! however that ends. The folder of a run's own results is locked in the same way.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::base::{Error, Result};

/// A held lock; dropping it lets go.
pub struct Lock(File);

impl Drop for Lock {
    /// Unlocks, rather than leave it to closing: a process that another thread is just starting
    /// shares the open file until it runs its own program, and would hold the lock till then.
    fn drop(&mut self) {
        let _ = self.0.unlock(); // refused only where there is nothing to let go
    }
}

const NAME: &str = "lock";

impl Lock {
    /// The lock's file in a journal folder.
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join(NAME)
    }

    /// The writer's lock of a journal folder, which exists.
    ///
    /// # Errors
    ///
    /// Another process writes or opens the checkpoint; a folder that cannot be written.
    pub fn exclusive(folder: &Path) -> Result<Lock> {
        Lock::alone(&Lock::path(folder), "another process is opening or changing this checkpoint")
    }

    /// The lock on a file, which is created where it does not exist; `held` names its holder for
    /// errors.
    ///
    /// # Errors
    ///
    /// Somebody has it; a file that cannot be written.
    pub fn alone(path: &Path, held: &str) -> Result<Lock> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(|e| Error::io(path, "write to", e))?;
        file.try_lock().map_err(|e| refused(path, e, held))?;
        Ok(Lock(file))
    }

    /// A reader's lock; `None` where nothing was ever changed, so that there is nothing to lock.
    ///
    /// # Errors
    ///
    /// Another process writes the checkpoint.
    pub fn shared(folder: &Path) -> Result<Option<Lock>> {
        let path = Lock::path(folder);
        if !path.exists() {
            return Ok(None);
        }
        let file = File::open(&path).map_err(|e| Error::io(&path, "open", e))?;
        let held = "another process is changing this checkpoint";
        file.try_lock_shared().map_err(|e| refused(&path, e, held))?;
        Ok(Some(Lock(file)))
    }
}

fn refused(path: &Path, why: TryLockError, held: &str) -> Error {
    match why {
        TryLockError::Error(e) => Error::io(path, "lock", e),
        TryLockError::WouldBlock => {
            Error::Locked { path: path.to_owned(), holder: held.to_owned() }
        }
    }
}
