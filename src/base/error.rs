//! Errors: one variant a kind of failure, with a stable code and what to do about it.
//!
//! Errors happen at the API boundary (files, requests, devices, memory). A shape that does not fit
//! inside the model is a bug of ours and asserts.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use super::Remedy;

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, and how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
        remedy: Box<Remedy>,
    },

    /// Requests that contradict each other.
    #[error("{}: records: {what}; {remedy}", path.display())]
    Conflict {
        /// The file of requests, or the name of an input that is no file.
        path: PathBuf,
        /// Which of them.
        what: String,
        /// What to do about it.
        remedy: Box<Remedy>,
    },

    /// Another process uses the checkpoint or the folder of results; later it may be free.
    #[error("{}: lock: {holder}; {WAIT}", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },

    /// A request or option that contradicts the model or another option.
    #[error("{what}; {remedy}")]
    Refused {
        /// What cannot be done.
        what: String,
        /// What to do instead.
        remedy: Box<Remedy>,
    },

    /// The numbers do not allow it: a singular matrix, a NaN.
    #[error("{what}; {remedy}")]
    Numeric {
        /// Which quantity, where.
        what: String,
        /// What to do about it.
        remedy: Box<Remedy>,
    },

    /// A device is not there, cannot be used or failed.
    #[error("{what}; {remedy}")]
    Device {
        /// Which device, and what it or its driver says.
        what: String,
        /// What to do about it.
        remedy: Box<Remedy>,
    },

    /// A device has no memory left.
    #[error("{}; {LESS}", no_room(*wanted, *used, *limit))]
    DeviceMemory {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that are taken.
        used: u64,
        /// Bytes there may be.
        limit: u64,
    },

    /// A server refused, or cannot be reached.
    #[error("{url}: {what}; {state}; {remedy}")]
    Server {
        /// Where it is.
        url: String,
        /// What was asked of it, and what it said.
        what: String,
        /// What is known of it now.
        state: String,
        /// What to do about it.
        remedy: Box<Remedy>,
    },

    /// A program that aborts where it panics cannot use a device: one without memory unwinds.
    #[error(
        "{device}: this build aborts on panic, so a device without memory would end the process; \
         {UNWIND}"
    )]
    AbortBuild {
        /// The device that was asked for.
        device: String,
    },

    /// The user cancelled; what was finished is kept.
    #[error("interrupted; {kept}")]
    Interrupted {
        /// What was kept and how to go on.
        kept: String,
    },
}

fn no_room(wanted: u64, used: u64, limit: u64) -> String {
    // What is free may lie between what is taken, or another program has it.
    let apart = if used.saturating_add(wanted) > limit { "" } else { " and the rest is in pieces" };
    format!(
        "{wanted} bytes do not fit on the device, of whose {limit} bytes {used} are taken{apart}"
    )
}

const WAIT: &str = "wait until it is done and start again";
const LESS: &str = "leave it to fewer programs, take less at once (fewer facts, layers or \
                    tokens), or compute on the CPU";
const UNWIND: &str = "compute on the CPU, or build with panic = \"unwind\"";

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
        remedy: impl Into<Remedy>,
    ) -> Self {
        Error::Input {
            path: path.as_ref().to_path_buf(),
            field: field.into(),
            what: what.into(),
            remedy: Box::new(remedy.into()),
        }
    }

    /// A request that cannot be met as it stands.
    pub fn refused(what: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Error::Refused { what: what.into(), remedy: Box::new(remedy.into()) }
    }

    /// Numbers that do not allow it.
    pub fn numeric(what: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Error::Numeric { what: what.into(), remedy: Box::new(remedy.into()) }
    }

    /// A device that cannot be used.
    pub fn device(what: impl Into<String>, remedy: impl Into<Remedy>) -> Self {
        Error::Device { what: what.into(), remedy: Box::new(remedy.into()) }
    }

    /// The kind of failure, for programs: stable, and another for each variant.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "io",
            Error::Input { .. } => "input",
            Error::Conflict { .. } => "conflict",
            Error::Locked { .. } => "locked",
            Error::Refused { .. } => "refused",
            Error::Numeric { .. } => "numeric",
            Error::Device { .. } => "device",
            Error::DeviceMemory { .. } => "device-memory",
            Error::Server { .. } => "server",
            Error::AbortBuild { .. } => "abort-build",
            Error::Interrupted { .. } => "interrupted",
        }
    }

    /// The file it is about, or the name of an input that is no file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Error::Io { path, .. }
            | Error::Input { path, .. }
            | Error::Conflict { path, .. }
            | Error::Locked { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The field, tensor or line inside the file.
    pub fn field(&self) -> Option<&str> {
        if let Error::Input { field, .. } = self { Some(field) } else { None }
    }

    /// What to do about it. The system says why it refused, and not what helps.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Error::Io { source, .. } => system_remedy(source.kind()).map(Remedy::from),
            Error::Input { remedy, .. }
            | Error::Conflict { remedy, .. }
            | Error::Refused { remedy, .. }
            | Error::Numeric { remedy, .. }
            | Error::Server { remedy, .. }
            | Error::Device { remedy, .. } => Some((**remedy).clone()),
            Error::Locked { .. } => Some(WAIT.into()),
            Error::DeviceMemory { .. } => {
                Some(Remedy::from(LESS).option("memory", None).option("device", Some("cpu")))
            }
            Error::AbortBuild { .. } => Some(Remedy::from(UNWIND).option("device", Some("cpu"))),
            Error::Interrupted { .. } => None,
        }
    }

    /// All of it on one line: what went wrong, the chain of causes, and the remedy last.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(e) = cause {
            line += &format!(": {e}");
            cause = e.source();
        }
        // The others end in their remedy, and have no cause after it.
        if let (Error::Io { .. }, Some(remedy)) = (self, self.remedy()) {
            line += &format!("; {remedy}");
        }
        line
    }
}

fn system_remedy(kind: io::ErrorKind) -> Option<&'static str> {
    use io::ErrorKind::{
        NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    match kind {
        NotFound => Some("check the name"),
        StorageFull | QuotaExceeded => Some("free some space and start again"),
        PermissionDenied | ReadOnlyFilesystem => {
            Some("change its permissions, or name another place")
        }
        _ => None,
    }
}
