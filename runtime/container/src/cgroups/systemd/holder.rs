//! The process that a scope is started with.
//!
//! It also makes the connection by which the scope is asked for: the kernel tells systemd who
//! connected, in systemd's own numbers, so that a process in a PID namespace can be named at all.
//!
//! Sources: `unix(7)` (`SO_PEERCRED`), `pid_namespaces(7)`.

use super::bus::{Door, doors};
use crate::cgroups::layout::Layout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// `PROC_PID_INIT_INO`: the machine's own PID namespace.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A process that holds a scope open; dropped, it is gone. Of a slice, only its place.
#[derive(Debug)]
pub(in crate::cgroups) struct Holder {
    pid: libc::pid_t,
    /// Path of the unit's cgroup below the hierarchy's root, where systemd had to be asked.
    control_group: Option<String>,
}

/// The ways to systemd, and what came of each.
type Tried = Vec<(Door, io::Result<UnixStream>)>;

impl Holder {
    /// Of a slice: there is no process.
    pub(super) fn none() -> Holder {
        Holder { pid: 0, control_group: None }
    }

    /// Starts it, and lets it connect to systemd.
    pub(super) fn new(user: bool) -> io::Result<(Holder, Tried)> {
        let doors = doors(user);
        let mut sockets: Vec<(OwnedFd, UnixAddr)> = Vec::new();
        for door in &doors {
            let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            sockets.push((fd, UnixAddr::new(&door.path)?));
        }
        let (answers, teller) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let us = std::process::id() as libc::pid_t;
        // SAFETY: the child makes system calls only, and never returns.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            hold(us, &sockets, File::from(teller));
        }
        drop(teller);
        let holder = Holder { pid, control_group: None };
        let mut answers = File::from(answers);
        let mut tried = Vec::new();
        for (door, (fd, _)) in doors.into_iter().zip(sockets) {
            let mut errno = [0; 4];
            answers.read_exact(&mut errno)?;
            tried.push((
                door,
                match i32::from_ne_bytes(errno) {
                    0 => Ok(UnixStream::from(fd)),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                },
            ));
        }
        Ok((holder, tried))
    }

    /// Its process id as systemd is told: 0 is whoever made the connection. Where we have systemd's
    /// numbers they are given, because systemd before 230 takes no 0.
    pub(super) fn number(&self) -> u32 {
        if knows_our_numbers() { self.pid as u32 } else { 0 }
    }

    /// Where systemd said that the unit is.
    pub(super) fn is_at(&mut self, control_group: String) {
        self.control_group = Some(control_group);
    }

    /// The unit's directory in the v2 hierarchy, where only systemd knew it.
    pub(in crate::cgroups) fn directory(&self, layout: &Layout) -> Option<PathBuf> {
        let path = self.control_group.as_deref()?.trim_start_matches('/');
        layout.v2.as_ref().map(|v2| v2.mountpoint.join(path))
    }
}

/// Whether a process id of ours means the same process to systemd.
pub(in crate::cgroups) fn knows_our_numbers() -> bool {
    let namespace = std::fs::metadata("/proc/self/ns/pid").map(|found| found.ino());
    namespace.map_or(true, |number| number == FIRST_PID_NAMESPACE)
}

/// The child: connects, tells what came of it, and waits for its end.
fn hold(parent: libc::pid_t, sockets: &[(OwnedFd, UnixAddr)], mut teller: File) -> ! {
    // SAFETY: async-signal-safe calls; if our parent is gone already, so are we.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent {
            libc::_exit(0);
        }
    }
    for (fd, address) in sockets {
        let errno = connect(fd.as_raw_fd(), address).err().map_or(0, |errno| errno as i32);
        let _ = teller.write_all(&errno.to_ne_bytes());
    }
    loop {
        // SAFETY: takes nothing, touches no memory.
        unsafe { libc::pause() };
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: our own child, not waited for by anyone else.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}
