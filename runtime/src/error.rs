//! Every way in which a command can fail, reported once, by `main`.

use std::io;
use std::path::PathBuf;

/// The outcome of most things here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command failed. Where engines parse the text, it is runc's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of `--config` is not what it should be.
    #[error("{}: {source}", path.display())]
    HullToml {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: config::Error,
    },
    /// A system call on a file failed.
    #[error("{operation} {}: {}", path.display(), oci::words(source))]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call on something else failed.
    #[error("{operation}: {}", oci::words(source))]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The command line was wrong.
    #[error(transparent)]
    Usage(#[from] crate::cli::UsageError),
    /// No such command.
    #[error("unknown command {0:?}: No help topic for '{0}' (--help lists all commands)")]
    UnknownCommand(String),
    /// The kernel store failed.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
    /// A text that cannot be a container's id.
    #[error("invalid container id format: {0:?}")]
    InvalidId(String),
    /// The id is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// There is no such container.
    #[error("container does not exist")]
    NotFound,
    /// A state file that cannot be read.
    #[error("{} is damaged: {source} (delete --force removes it)", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A document could not be written as JSON.
    #[error("writing {what}: {source}")]
    Encode {
        /// Which.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A claim on an id was used twice.
    #[error("the container was handed over already")]
    Claimless,
    /// A signal asked to end while a container was being made.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// Which.
        signal: i32,
    },
    /// A terminal would have no other end.
    #[error("cannot allocate tty if hull will detach without setting console socket")]
    ConsoleSocketNeeded,
    /// Nobody would send anything there.
    #[error("cannot use console socket if hull will not detach or allocate tty")]
    ConsoleSocketUseless,
    /// `start` of what has ended.
    #[error("cannot start a container that has stopped")]
    StartStopped,
    /// `start` of what runs.
    #[error("cannot start an already running container")]
    StartRunning,
    /// `start` of what is neither created, running nor stopped.
    #[error("cannot start a container in the {0} state")]
    StartWrong(oci::Status),
    /// The operation needs a living container.
    #[error("container not running")]
    NotRunning,
    /// The same with the id, where runc says it.
    #[error("container with id {0} is not running")]
    IdNotRunning(String),
    /// `spec` overwrites nothing.
    #[error("file {} exists. Remove it first", path.display())]
    SpecExists {
        /// The file.
        path: PathBuf,
    },
    /// `pause` of what cannot be frozen.
    #[error("container not running or created: {0}")]
    NotPausable(oci::Status),
    /// `resume` of what is not frozen.
    #[error("container not paused")]
    NotPaused,
    /// `delete` of what lives.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped {
        /// Which.
        id: String,
        /// Where it stands.
        status: oci::Status,
    },
    /// `exec` in what has ended.
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    /// `exec` in what is frozen.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    /// A signal that does not exist.
    #[error("unknown signal {0:?}")]
    UnknownSignal(String),
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
    /// The microVM wall failed.
    #[error(transparent)]
    Microvm(#[from] crate::microvm_wall::Error),
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
    /// CRIU, or what is around it, failed.
    #[error(transparent)]
    Criu(#[from] container::criu::Error),
    /// Only what runs can be saved.
    #[error("container cannot be checkpointed in {0} state")]
    NotCheckpointable(oci::Status),
    /// An operation that one wall does not have.
    #[error("{operation} is not supported for a {wall}")]
    NotOnThisWall {
        /// The operation.
        operation: &'static str,
        /// The wall.
        wall: &'static str,
    },
}

impl Error {
    /// A failed system call on a file.
    pub fn file(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::File { operation, path: path.into(), source }
    }
}
