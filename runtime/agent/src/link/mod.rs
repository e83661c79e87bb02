//! The host link: what the monitor on the host and the agent in the guest say to each other.
//!
//! Every connection is opened by the guest, over virtio-vsock, to [`PORT`] of the host (a
//! guest that calls needs nobody to poll for it) and starts with a [`Preamble`] of fixed
//! size that says which it is: the one control connection, or one standard stream of one
//! process. The control connection then carries frames ([`frame`]): a length, checked before
//! anything is allocated, and one message as JSON.
//!
//! Each end takes the other for hostile: lengths, versions, process numbers and stream
//! numbers are checked here, and no message makes either end panic.
//!
//! This module must not know what a message makes either end do.

pub mod frame;
pub mod preamble;

use std::path::PathBuf;

use oci::spec::{LinuxResources, Process};
use serde::{Deserialize, Serialize};

pub use frame::{Decoder, FrameError, MAX_FRAME, MAX_REPORT};
pub use preamble::{Connection, PREAMBLE_LEN, Preamble, PreambleError};

/// Version of the message set. Both ends come from one build, so it is compared for equality.
pub const VERSION: u16 = 1;

/// The vsock port on which the monitor takes the guest's connections.
pub const PORT: u32 = 1024;

/// The context id of the host, VMADDR_CID_HOST of vsock(7).
pub const HOST_CID: u32 = 2;

/// The tag of the virtio-fs device that shows the prepared tree.
pub const FS_TAG: &str = "hull";

/// Where the agent mounts the prepared tree.
pub const TREE: &str = "/hull";

/// The name of the container's root inside the prepared tree.
pub const ROOTFS: &str = "rootfs";

/// The directory of the prepared tree that holds what is bound, one entry per mount.
pub const BINDS: &str = "binds";

/// A process of the container: 0 is the one of config.json, others are numbered by the host.
pub type ProcessId = u32;

/// The number of the process that config.json describes.
pub const INIT: ProcessId = 0;

/// A request, host to guest.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host, repeated in the reply.
    pub seq: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What the host asks of the agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Set the container up, up to where it waits for [`Ask::Start`].
    Create(Box<Create>),
    /// Run the workload.
    Start,
    /// Run another process in the container.
    Exec(Box<Exec>),
    /// Send a signal.
    Signal {
        /// To which process.
        process: ProcessId,
        /// The signal's number, real-time ones included.
        signal: i32,
        /// To all processes of the container.
        all: bool,
    },
    /// The terminal of a process has a new size.
    Resize {
        /// Whose terminal.
        process: ProcessId,
        /// Its size.
        size: WindowSize,
    },
    /// Change the limits that the guest enforces.
    Update(Box<LinuxResources>),
    /// Read the guest's statistics of the container.
    Stats,
    /// List the container's processes.
    Processes,
}

/// How the three standard streams of a process are provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// A terminal in the guest, carried by one connection both ways (stream 0).
    Terminal {
        /// Its size, where it has one.
        size: Option<WindowSize>,
        /// Its newlines come out without a carriage return.
        plain_newlines: bool,
    },
    /// stdin, stdout, stderr, each for itself.
    Streams([Stream; 3]),
}

impl Stdio {
    /// Whether it is a terminal whose newlines come out without a carriage return.
    pub fn plain_newlines(self) -> bool {
        matches!(self, Stdio::Terminal { plain_newlines: true, .. })
    }
}

/// Where one standard stream leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// To `/dev/null`: the guest's own does as well as the host's.
    Null,
    /// To the host, over a connection.
    Host,
}

/// The size of a terminal, as TIOCSWINSZ takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Rows of characters.
    pub rows: u16,
    /// Columns of characters.
    pub cols: u16,
}

/// What the agent needs to set the container up.
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// The container's id.
    pub id: String,
    /// The bundle's path on the host: the state given to hooks names it.
    pub bundle: PathBuf,
    /// config.json as the guest is to carry it out: paths lead into [`TREE`].
    pub config: oci::Config,
    /// The workload's standard streams.
    pub stdio: Stdio,
    /// Keep the session keyring (`--no-new-keyring`).
    pub no_new_keyring: bool,
    /// The resource limits of the caller, soft and hard, by number: what a process inherits
    /// where config.json says nothing.
    pub rlimits: Vec<(u64, u64)>,
    /// The host's clock, nanoseconds since the epoch: a guest has no better source.
    pub now: u64,
}

/// What the agent needs to run another process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The number it will have.
    pub process: ProcessId,
    /// The process, as config.json would describe it.
    pub spec: Process,
    /// Its standard streams.
    pub stdio: Stdio,
    /// `--cgroup`: cgroups below the container's own to run it in.
    pub cgroup: Vec<String>,
    /// Run it although the container is paused.
    pub ignore_paused: bool,
}

/// What the guest says to the host.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The answer to the request of that number.
    Reply {
        /// [`Request::seq`].
        seq: u32,
        /// What came of it; an error is the text to show to the user.
        result: Result<Answer, String>,
    },
    /// A process ended and all it wrote has been handed to its streams.
    Exited {
        /// Which.
        process: ProcessId,
        /// How.
        status: ExitStatus,
    },
}

/// What a request that was carried out gives back.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing but that it was done.
    Done,
    /// A process was made; its pid in the guest.
    Process(i32),
    /// The container's processes.
    Processes(Vec<ProcessRow>),
    /// The statistics, in the form in which the `container` crate serialises them.
    Stats(serde_json::Value),
}

/// A process, as ps(1) shows one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Its pid, as the guest counts.
    pub pid: i32,
    /// Its parent's.
    pub ppid: i32,
    /// Whose it is.
    pub uid: u32,
    /// When it was started, in seconds since the epoch.
    pub started: u64,
    /// Its terminal, or `?`.
    pub terminal: String,
    /// The processor time it has used.
    pub seconds: u64,
    /// Its command line, shortened.
    pub command: String,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By exit(2) with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl ExitStatus {
    /// What a shell would say: the code, or 128 and the signal's number.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => i32::from(code),
            Self::Signal(signal) => (128 + i32::from(signal)) & 0xff,
        }
    }

    /// From a status of waitpid(2); `None` if it tells of a stop and not of an end.
    pub fn from_wait(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Code((libc::WEXITSTATUS(status) & 0xff) as u8))
        } else if libc::WIFSIGNALED(status) {
            Some(Self::Signal((libc::WTERMSIG(status) & 0x7f) as u8))
        } else {
            None
        }
    }
}
