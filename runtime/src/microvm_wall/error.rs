//! Why a microVM could not be made, reached or changed.

use std::io;

use hull_agent::link::FrameError;

use super::plan;

/// An error of the microVM wall.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle cannot run in a microVM as it is.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// What the monitor says has gone wrong there, or in the guest: already a whole sentence.
    #[error("{0}")]
    Monitor(String),
    /// The monitor ended without a word.
    #[error("the microVM's monitor ended during {during}")]
    MonitorGone {
        /// What was being done.
        during: &'static str,
    },
    /// The monitor says what was not asked.
    #[error("the microVM's monitor gave no fitting answer to {to}")]
    Answer {
        /// What was asked.
        to: &'static str,
    },
    /// A message could not be exchanged with the monitor.
    #[error("microVM control socket: {0}")]
    Frame(#[from] FrameError),
    /// A system call failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The operation needs the container in another state.
    #[error("cannot {operation} a container that is {status}")]
    Status {
        /// What was asked for.
        operation: &'static str,
        /// Where the container stands.
        status: oci::Status,
    },
    /// A limit beyond what the guest has.
    #[error(
        "linux.resources.memory.limit: {limit} bytes are more than the guest's memory of {memory}"
    )]
    BeyondGuest {
        /// The limit asked for.
        limit: i64,
        /// What the guest has.
        memory: u64,
    },
}

impl Error {
    /// Says which system call failed.
    pub(super) fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Error::System { operation, source: source.into() }
    }
}
