//! Hooks: the user's programs at fixed points of a container's life.

use oci::spec::Hook;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Which point of the life ("POSIX-platform Hooks" of the runtime specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Deprecated form of [`Kind::CreateRuntime`], run before it.
    Prestart,
    /// After the namespaces were made, in the runtime's.
    CreateRuntime,
    /// Before `pivot_root`, in the container's namespaces.
    CreateContainer,
    /// Before the user's program, in the container.
    StartContainer,
    /// After the user's program began, in the runtime's namespaces.
    Poststart,
    /// After the container was deleted, in the runtime's namespaces.
    Poststop,
}

impl Kind {
    /// The name as `config.json` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prestart => "prestart",
            Kind::CreateRuntime => "createRuntime",
            Kind::CreateContainer => "createContainer",
            Kind::StartContainer => "startContainer",
            Kind::Poststart => "poststart",
            Kind::Poststop => "poststop",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a hook ended badly.
#[derive(Debug, thiserror::Error)]
#[error("error running {kind} hook #{index} {}: {problem}", path.display())]
pub struct Error {
    /// Of which kind.
    pub kind: Kind,
    /// Its place in the list, from 0.
    pub index: usize,
    /// Its program.
    pub path: PathBuf,
    /// What happened.
    pub problem: Problem,
}

/// What can happen to a hook.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It could not be run.
    #[error("{operation}: {source}")]
    Run {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ended with a status that is not 0.
    #[error("exit status {status}, stderr: {stderr}")]
    Status {
        /// The exit status.
        status: i32,
        /// What it wrote to stderr, shortened.
        stderr: String,
    },
    /// A signal ended it.
    #[error("signal: {signal}, stderr: {stderr}")]
    Signal {
        /// Number of the signal.
        signal: i32,
        /// What it wrote to stderr, shortened.
        stderr: String,
    },
    /// It did not end in time and was killed.
    #[error("did not end within {seconds} s")]
    Timeout {
        /// Its time limit.
        seconds: i64,
    },
}

/// Runs the hooks of one kind in order; the first that fails ends it.
pub fn run(_hooks: &[Hook], _kind: Kind, _state: &oci::State) -> Result<(), Error> {
    unimplemented!()
}
