//! Processes by descriptor: a number may be another's tomorrow, a descriptor never is.
//! Sources: pidfd_open(2), pidfd_send_signal(2).

use crate::sys;
use nix::errno::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The process of that number, which is readable for poll(2) once it has ended; `None` if nothing
/// is left of it.
pub fn find(pid: i32) -> nix::Result<Option<OwnedFd>> {
    match sys::pidfd_open(pid) {
        Ok(process) => Ok(Some(process)),
        Err(Errno::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends it a signal.
pub fn signal(process: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    sys::pidfd_send_signal(process, signal)
}
