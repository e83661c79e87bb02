//! Signals of the monitor itself: whatever is sent to its pid is meant for the workload.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// For the workload.
    Forward(i32),
    /// The terminal has a new size.
    Resized,
}

/// Watches for every signal that can be.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks all signals, in threads made later too, and watches for them. A fault of the
    /// monitor's own ends it nevertheless: the kernel does not ask a mask for those.
    pub fn watch() -> io::Result<Self> {
        let all = SigSet::all();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&all, flags)?))
    }

    /// The next one.
    pub fn next(&self) -> Option<Came> {
        loop {
            let info = self.0.read_signal().ok().flatten()?;
            match info.ssi_signo as i32 {
                libc::SIGWINCH => return Some(Came::Resized),
                libc::SIGCHLD => {}
                // A write of our own to a pipe without reader: its error has said so already.
                libc::SIGPIPE if info.ssi_pid == std::process::id() => {}
                signal => return Some(Came::Forward(signal)),
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
