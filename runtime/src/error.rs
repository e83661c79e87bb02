//! Every way in which a command can fail, reported once, by `main`.

use std::io;
use std::path::PathBuf;

/// The outcome of most things here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command failed. Where engines parse the text, it is runc's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file failed.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call on something else failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A document of the specification was refused.
    #[error(transparent)]
    Oci(#[from] oci::Error),
    /// No wall could be decided on.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The container wall failed.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] container::hooks::Error),
    /// A helper program of the host failed.
    #[error("{program}: {message}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// A record was handed to the wall that did not make it.
    #[error("container {id} is a {wall}")]
    WrongWall {
        /// The container.
        id: String,
        /// Its own wall.
        wall: config::WallKind,
    },
    /// An operation that one wall does not have.
    #[error("{operation} is not supported for a {wall}")]
    NotOnThisWall {
        /// The operation.
        operation: &'static str,
        /// The wall.
        wall: &'static str,
    },
}
