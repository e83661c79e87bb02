//! One container's life by single commands: create, start, kill, delete; made
//! so that nothing is left when a step fails.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::contender::Contender;
use crate::error::Error;
use crate::spawn::{Measured, Output};

/// How long a killed container may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// An id that no other run has.
pub fn fresh_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("cb{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A created container. Dropped before `Life::end` it is deleted by force.
#[derive(Debug)]
pub struct Life<'a> {
    contender: &'a Contender,
    pub id: String,
    pub pid: i32,
    pidfd: Option<OwnedFd>,
    done: bool,
}

impl<'a> Life<'a> {
    /// `create` with the bundle that sleeps.
    pub fn create(contender: &'a Contender) -> Result<(Self, Measured), Error> {
        let mut life = Self { contender, id: fresh_id(), pid: 0, pidfd: None, done: false };
        let path = contender.pid_file();
        let _ = fs::remove_file(&path);
        let (file, bundle) = (path.display().to_string(), contender.hold());
        let words = ["create", "--bundle", &bundle, "--pid-file", &file, &life.id];
        let measured = contender.call("create", &words, Output::Discard)?;
        life.pid = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or(Error::PidFile { name: contender.name.clone(), path })?;
        life.pidfd = pidfd(life.pid);
        Ok((life, measured))
    }

    /// `start`.
    pub fn start(&self) -> Result<Measured, Error> {
        self.contender.call("start", &["start", &self.id], Output::Discard)
    }

    /// `kill ID KILL`, and the time until the container's process is gone.
    pub fn kill(&self) -> Result<(Measured, Duration), Error> {
        let began = Instant::now();
        let measured = self.contender.call("kill", &["kill", &self.id, "KILL"], Output::Discard)?;
        self.gone()?;
        Ok((measured, began.elapsed()))
    }

    /// `delete`.
    pub fn delete(mut self) -> Result<Measured, Error> {
        let measured = self.contender.call("delete", &["delete", &self.id], Output::Discard)?;
        self.done = true;
        Ok(measured)
    }

    /// Waits until the process is gone, and reaps it where it is ours.
    fn gone(&self) -> Result<(), Error> {
        if let Some(pidfd) = &self.pidfd {
            let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let timeout = i32::try_from(PATIENCE.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd, alive for the call.
            if unsafe { libc::poll(&mut poll, 1, timeout) } == 0 {
                return Err(Error::Immortal {
                    name: self.contender.name.clone(),
                    pid: self.pid,
                    seconds: PATIENCE.as_secs(),
                });
            }
        }
        // SAFETY: a pid and a null pointer, which wait4 allows.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::WNOHANG) };
        Ok(())
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.contender.try_call(&["delete", "--force", &self.id], Output::Discard);
            let _ = self.gone();
        }
    }
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor is new and nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
