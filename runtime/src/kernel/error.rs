//! What can go wrong when a kernel is looked for, unpacked or stored.

use std::io;
use std::path::PathBuf;

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
}
