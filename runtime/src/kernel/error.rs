//! What can go wrong when a kernel is looked for, unpacked or stored.

use std::io;
use std::path::{Path, PathBuf};

use super::{image, unpack};

/// An error of the kernel store: operation, object, cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file failed.
    #[error("guest kernel: {operation} {path:?}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No kernel was named and the host has none.
    #[error(
        "guest kernel: no vmlinuz-* in {directory:?}; install a kernel (linux-image-cloud-amd64, \
         say) or name one with vm.kernel.path, the annotation run.hull.kernel or \
         `hull kernel install PATH`"
    )]
    NoneInstalled {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A version was named that is not in `/boot`.
    #[error("guest kernel: {name:?} is neither a file nor a version in {directory:?}")]
    NoSuchVersion {
        /// What was named.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The file is no kernel that can be booted.
    #[error("guest kernel {path:?}: {source}")]
    Image {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: image::Error,
    },
    /// The file is larger than any kernel.
    #[error("guest kernel {path:?}: {size} bytes are too many for a kernel")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// A kernel of the host without its modules.
    #[error("guest kernel {release}: its modules are not in {directory:?}")]
    NoModules {
        /// `uname -r` of it.
        release: String,
        /// Where they were looked for.
        directory: PathBuf,
    },
    /// A module without which no guest works is missing.
    #[error("guest kernel {release}: it has no {name}, neither as a module nor built in")]
    NoModule {
        /// The module.
        name: String,
        /// `uname -r` of the kernel.
        release: String,
    },
    /// A module's file is not one.
    #[error("guest kernel {release}: the module {name} is damaged")]
    BadModule {
        /// The module.
        name: String,
        /// `uname -r` of the kernel.
        release: String,
    },
    /// A module could not be unpacked.
    #[error("guest kernel: {path:?} is {source}")]
    Unpack {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: unpack::Error,
    },
    /// The agent's binary is not where it should be.
    #[error("guest agent: there is no hull-agent in {0:?} or {1:?}")]
    NoAgent(PathBuf, PathBuf),
    /// No prepared kernel is called so.
    #[error("guest kernel: none prepared is called {name:?}")]
    NotPrepared {
        /// What was asked for.
        name: String,
    },
    /// More than one prepared kernel is called so.
    #[error("guest kernel: {name:?} may be any of {matches:?}")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Their digests.
        matches: Vec<String>,
    },
    /// The report could not be written.
    #[error("guest kernel: write the report: {0}")]
    Report(io::Error),
}

impl Error {
    /// A failed system call on a file.
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { operation, path: path.to_owned(), source }
    }
}
