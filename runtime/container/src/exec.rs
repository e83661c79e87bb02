//! One more process in a running container.

use crate::{Record, Result};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// What [`exec`] is asked to run.
#[derive(Clone, Copy, Debug)]
pub struct ExecRequest<'a> {
    /// The process, in the shape of `config.json`'s `process`.
    pub process: &'a oci::spec::Process,
    /// The container's `config.json` (seccomp, rootless mappings, …).
    pub config: &'a oci::Config,
    /// Compiled system call filters are kept here.
    pub cache_dir: Option<&'a Path>,
    /// Unix socket to which the terminal's master is sent.
    pub console_socket: Option<&'a Path>,
    /// stdin, stdout and stderr; `None`: the caller's.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// How many descriptors from 3 on are kept.
    pub preserve_fds: u32,
    /// runc's `--cgroup`: a path below the container's cgroup, or `controllers:path`.
    pub cgroup: &'a [String],
    /// Do not refuse a paused container.
    pub ignore_paused: bool,
}

/// A process that was started in a container; a child of the caller, who waits for it.
#[derive(Debug)]
pub struct Exec {
    /// As the caller sees it.
    pub pid: i32,
    /// To poll and to signal.
    pub pidfd: OwnedFd,
    /// The terminal's master, when there is a terminal and no console socket.
    pub console: Option<OwnedFd>,
}

/// Runs one more process in a running container. Returns when the program was executed.
pub fn exec(_record: &Record, _request: &ExecRequest<'_>) -> Result<Exec> {
    unimplemented!()
}
