//! What can go wrong, always with the operation, the object and what the kernel said.

use crate::{cgroups, netdev, rdt, seccomp};
use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A container could not be made, started, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed in this process.
    #[error("{operation} {object}: {source}")]
    Sys {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The container's process failed while it set itself up.
    #[error("unable to start container process: {}{failure}", during_init(.0), failure = .0)]
    Init(Failure),
    /// All was made, and the kernel would not execute the program.
    #[error("{0}")]
    Program(Failure),
    /// The container's process ended before it was ready, without a word (killed, mostly).
    #[error("the container's process ended during set-up: {0}")]
    InitDied(String),
    /// A value of `config.json` that cannot be honoured.
    #[error("{field}: {reason}")]
    Value {
        /// Path of the field.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The operation is not possible in the state that the container is in.
    #[error("cannot {operation} a container that is {status}")]
    Status {
        /// What was asked for.
        operation: &'static str,
        /// Where the container stands.
        status: oci::Status,
    },
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] crate::hooks::Error),
    /// A control group operation failed.
    #[error(transparent)]
    Cgroup(#[from] cgroups::Error),
    /// The system call filter cannot be had.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// A network device could not be moved.
    #[error(transparent)]
    NetDevice(#[from] netdev::Error),
    /// Cache and bandwidth allocation cannot be had.
    #[error(transparent)]
    Rdt(#[from] rdt::Error),
    /// A file of the kernel did not read as documented.
    #[error("{}: unexpected content", .0.display())]
    Parse(PathBuf),
}

/// What stands before a failure of the container's process, but for those of finding its program.
fn during_init(failure: &Failure) -> &'static str {
    if failure.what.starts_with("exec: ") { "" } else { "error during container init: " }
}

impl Error {
    /// What a process said that was to become the program.
    pub(crate) fn of_start(failure: Failure) -> Self {
        match failure.what.starts_with("exec ") {
            true => Error::Program(failure),
            false => Error::Init(failure),
        }
    }

    pub(crate) fn sys(
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Error::Sys { operation, object: object.into(), source: source.into() }
    }

    pub(crate) fn value(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Value { field: field.into(), reason: reason.into() }
    }
}

/// What a child reports over the socket: fixed shape, so that it can be made after a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried, on what: `mount tmpfs to /run`.
    pub what: String,
    /// What the kernel said; 0 when the failure is not a system call's.
    pub errno: i32,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        match self.errno {
            0 => Ok(()),
            errno => write!(f, ": {}", crate::error::words(errno)),
        }
    }
}

/// What the kernel's error number says, in the small letters that engines look for.
pub(crate) fn words(errno: i32) -> String {
    let text = nix::errno::Errno::from_raw(errno).desc();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Result of what runs in the child.
pub(crate) type Done<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure that is not a system call's.
    pub(crate) fn plain(what: impl Into<String>) -> Self {
        Failure { what: what.into(), errno: 0 }
    }
}

/// Adds to an error number what was tried.
pub(crate) trait Trying<T> {
    /// `what` is only made when there was an error.
    fn trying<S: Into<String>>(self, what: impl FnOnce() -> S) -> Done<T>;
}

impl<T> Trying<T> for std::result::Result<T, nix::errno::Errno> {
    fn trying<S: Into<String>>(self, what: impl FnOnce() -> S) -> Done<T> {
        self.map_err(|errno| Failure { what: what().into(), errno: errno as i32 })
    }
}

impl<T> Trying<T> for io::Result<T> {
    fn trying<S: Into<String>>(self, what: impl FnOnce() -> S) -> Done<T> {
        self.map_err(|error| Failure {
            what: what().into(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}
