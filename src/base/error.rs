//! Errors: one variant a kind of failure, one sentence each, with the remedy where there is one.
//!
//! Errors happen at doors (files, requests, devices, memory). A shape that does not fit inside the
//! model is a bug of ours and asserts.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, said so that the reader can mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something about a file.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "open", "write the journal to".
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// A file says something that cannot be used.
    #[error("{}: {field}: {what}; {remedy}", path.display())]
    Input {
        /// The file, or the name of an input that is no file.
        path: PathBuf,
        /// The field, tensor or line inside it.
        field: String,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        remedy: String,
    },

    /// A request or option that contradicts the model or another option.
    #[error("{what}; {remedy}")]
    Refused {
        /// What cannot be done.
        what: String,
        /// What to do instead.
        remedy: String,
    },

    /// The numbers do not allow it: a singular matrix, a NaN.
    #[error("{what}; {remedy}")]
    Numeric {
        /// Which quantity, where.
        what: String,
        /// What to do about it.
        remedy: String,
    },

    /// A device has no room left.
    #[error(
        "{wanted} bytes do not fit on the device, of whose {limit} bytes {used} are taken; \
         leave it to fewer programs, take less at once (`edit --memory`, fewer layers or tokens), \
         or use --device cpu"
    )]
    Room {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that are taken.
        used: u64,
        /// Bytes there may be.
        limit: u64,
    },

    /// The user asked to stop; what was finished is kept.
    #[error("interrupted; {kept}")]
    Interrupted {
        /// What was kept and how to go on.
        kept: String,
    },
}

impl Error {
    /// Wraps an [`io::Error`]: `.map_err(|e| Error::io(path, "open", e))`.
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), action, source }
    }

    /// A file whose `field` is wrong, and what to do about it.
    pub fn input(
        path: impl AsRef<Path>,
        field: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (field, what, remedy) = (field.into(), what.into(), remedy.into());
        Error::Input { path: path.as_ref().to_path_buf(), field, what, remedy }
    }

    /// A request that cannot be met as it stands.
    pub fn refused(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Refused { what: what.into(), remedy: remedy.into() }
    }

    /// What to do where the system refused: it says why, and not what helps.
    pub fn remedy(&self) -> Option<&'static str> {
        use io::ErrorKind::{
            NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        };
        let Error::Io { source, .. } = self else { return None };
        match source.kind() {
            NotFound => Some("check the name"),
            StorageFull | QuotaExceeded => Some("free some space and run the command again"),
            PermissionDenied | ReadOnlyFilesystem => {
                Some("change its permissions, or name another place")
            }
            _ => None,
        }
    }

    /// Numbers that do not allow it.
    pub fn numeric(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Numeric { what: what.into(), remedy: remedy.into() }
    }
}
