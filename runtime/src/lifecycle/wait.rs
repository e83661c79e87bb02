//! Waiting for a container or an exec in the foreground.
//!
//! All signals are blocked and taken in turn, so that none is lost and none needs a handler:
//! SIGCHLD reaps, SIGWINCH resizes the terminal, the rest goes to the container.

use super::Blocked;
use crate::console::Relay;
use crate::{Error, Result};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// Children must be waited for even when SIGCHLD was ignored by who started us: the kernel
/// would reap them by itself, and their exit status would be lost.
pub fn reset_child_signal() {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Makes this process the parent of what the container's processes orphan.
pub fn set_subreaper() -> Result<()> {
    // SAFETY: prctl with these arguments touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(Error::System {
            operation: "becoming a subreaper",
            source: io::Error::last_os_error(),
        }),
    }
}

/// Waits for a child; its exit status, or 128 and the number of the signal that ended it.
pub fn wait(pid: i32, console: Option<OwnedFd>) -> Result<i32> {
    // A reader of stdout that went away ends the relay's output, not us.
    // SAFETY: ignoring runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let _blocked = Blocked::new();
    if let Some(status) = reap(pid)? {
        // It is gone already; what it wrote to its terminal is not.
        if let Some(console) = console {
            Relay::new(console)?.drain();
        }
        return Ok(status);
    }
    match console {
        None => wait_plain(pid),
        Some(console) => Relay::new(console)?.run(pid),
    }
}

fn wait_plain(pid: i32) -> Result<i32> {
    let set = Blocked::set();
    loop {
        let mut info = MaybeUninit::uninit();
        // SAFETY: the set is initialised; sigwaitinfo writes the information.
        let signal = unsafe { libc::sigwaitinfo(&set, info.as_mut_ptr()) };
        if signal < 0 {
            let source = io::Error::last_os_error();
            if source.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(Error::System { operation: "waiting for signals", source });
        }
        if let Some(status) = take_signal(pid, signal)? {
            return Ok(status);
        }
    }
}

/// Acts on one signal; the exit status when the child is gone.
pub(crate) fn take_signal(pid: i32, signal: i32) -> Result<Option<i32>> {
    match signal {
        libc::SIGCHLD => return reap(pid),
        // The relay has looked at the size; without one there is no terminal of ours.
        libc::SIGWINCH => {}
        signal => {
            // SAFETY: the child has not been waited for, so that its pid is its own; kill
            // touches no memory.
            unsafe { libc::kill(pid, signal) };
        }
    }
    Ok(None)
}

/// Waits for all children that ended; the status of the one that matters, if it is among them.
pub(crate) fn reap(pid: i32) -> Result<Option<i32>> {
    let mut found = None;
    loop {
        let mut status = 0;
        // SAFETY: status is a valid place for the status.
        match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
            0 => return Ok(found),
            ended if ended == pid => found = Some(exit_status(status)),
            ended if ended > 0 => {}
            _ => {
                let source = io::Error::last_os_error();
                match source.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ECHILD) if found.is_some() => return Ok(found),
                    _ => return Err(Error::System { operation: "waiting for a child", source }),
                }
            }
        }
    }
}

fn exit_status(status: libc::c_int) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
