//! Making a container: plans, clone, hooks, and a guard that undoes everything.

use crate::{Record, Result, Rootless};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// What [`create`] is asked to make.
#[derive(Clone, Copy, Debug)]
pub struct CreateRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The validated `config.json`.
    pub config: &'a oci::Config,
    /// Absolute path of the bundle.
    pub bundle: &'a Path,
    /// The container's state directory: exists, mode 0700; `exec.fifo` is made in it.
    pub state_dir: &'a Path,
    /// Where compiled system call filters are kept; none, none are kept.
    pub cache_dir: Option<&'a Path>,
    /// Unix socket to which the terminal's master is sent.
    pub console_socket: Option<&'a Path>,
    /// The container's stdin, stdout and stderr; `None`: the caller's. Not looked at with a terminal.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// How many descriptors from 3 on the container's process keeps (beside those of `LISTEN_FDS`).
    pub preserve_fds: u32,
    /// Do not use `pivot_root`: move the root mount and `chroot`.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Make the cgroup through systemd.
    pub systemd_cgroup: bool,
    /// Whether privileges are missing.
    pub rootless: Rootless,
    /// The caller starts the container itself ([`Created::start`]) and waits for it: no fifo is
    /// made, and with a terminal but no console socket the master is handed to the caller.
    pub foreground: bool,
}

/// A container that was made and waits to be started. Dropped without [`Created::keep`],
/// everything is undone: process, cgroup, fifo, mounts.
#[derive(Debug)]
pub struct Created {
    record: Record,
}

/// Makes a container: its first process waits for [`Created::start`] or [`crate::start`].
/// Hooks run: prestart, createRuntime, createContainer.
pub fn create(_request: &CreateRequest<'_>) -> Result<Created> {
    unimplemented!()
}

impl Created {
    /// The container's first process, a child of the caller.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// A descriptor of the container's first process (to poll; readable when it ended).
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }

    /// What the state file is to remember.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The terminal's master, when the container has a terminal and no console socket was given.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        unimplemented!()
    }

    /// Lets the user's program begin: startContainer hooks, then exec. A failing exec is the error.
    pub fn start(&mut self) -> Result<()> {
        unimplemented!()
    }

    /// Lets the container live on.
    pub fn keep(self) -> Record {
        self.record
    }
}
