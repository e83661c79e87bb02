//! What is done to a container after it was made: start, signal, pause, update, delete.

use crate::sync::{Channel, Tag};
use crate::{Error, Record, Result, Rootless, cgroups, pty, sys};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use oci::Status;
use oci::spec::LinuxResources;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Name of the socket in the state directory by which a created container is started. It is there
/// as long as the container was not.
const START_SOCKET: &str = "start.sock";

/// How long a killed process may take to be gone. A process in the kernel's hands (I/O) is not
/// hurried by anything.
const END_MILLIS: u16 = 10_000;

/// Removes what a killed `create` may have left of a container that was never recorded: its empty
/// cgroup. The process, if there was one, ends with its creator.
pub fn discard(id: &str, config: &oci::Config, rootless: Rootless) -> Result<()> {
    let linux = config.spec.linux().as_ref();
    let request = cgroups::Request {
        path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
        id,
        systemd: false,
        rootless: rootless.decide(),
        resources: None,
        annotations: None,
        owner: None,
    };
    cgroups::plan(&request)?.discard();
    Ok(())
}

/// The socket by which another process starts the container. Removed when dropped.
#[derive(Debug)]
pub(crate) struct StartSocket {
    fd: OwnedFd,
    path: PathBuf,
    kept: bool,
}

impl StartSocket {
    pub(crate) fn make(state_dir: &Path) -> Result<StartSocket> {
        let path = state_dir.join(START_SOCKET);
        let failed = |error| Error::sys("make", path.display().to_string(), error);
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
            .map_err(failed)?;
        match UnixAddr::new(&path) {
            Ok(address) => bind(fd.as_raw_fd(), &address).map_err(failed)?,
            Err(_) => {
                let (_directory, address) = pty::by_directory(&path).map_err(failed)?;
                bind(fd.as_raw_fd(), &address).map_err(failed)?;
            }
        }
        let made = StartSocket { fd, path: path.clone(), kept: false };
        listen(&made.fd, Backlog::new(1).unwrap_or(Backlog::MAXCONN)).map_err(failed)?;
        Ok(made)
    }

    /// A descriptor for the child.
    pub(crate) fn listener(&self) -> Result<OwnedFd> {
        self.fd.try_clone().map_err(|error| Error::sys("copy", "the socket to start by", error))
    }

    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for StartSocket {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Starts a created container. A failing exec of the user's program is the error.
pub fn start(state_dir: &Path, record: &Record) -> Result<()> {
    let refused = |operation, status| Error::Status { operation, status };
    match status(record, state_dir) {
        Status::Created => {}
        other => return Err(refused("start", other)),
    }
    let path = state_dir.join(START_SOCKET);
    let channel = Channel::from_fd(pty::connect_to(&path, SockType::SeqPacket)?);
    let gone = |error| Error::sys("speak to", "the container's process", error);
    channel.send(Tag::Start, &[], &[]).map_err(gone)?;
    let answer = channel.receive().map_err(gone)?;
    let _ = std::fs::remove_file(&path);
    match answer {
        None => Ok(()),
        Some(message) => Err(Error::of_start(message.failure())),
    }
}

/// State letter and start time (fields 3 and 22 of proc_pid_stat(5)).
fn stat(pid: i32) -> Option<(u8, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses included.
    let after = text.rsplit_once(") ")?.1;
    let mut fields = after.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// When a process began, in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> Result<u64> {
    stat(pid).map(|(_, time)| time).ok_or_else(|| Error::Parse(format!("/proc/{pid}/stat").into()))
}

/// Whether the container's first process lives.
fn is_alive(record: &Record) -> bool {
    match stat(record.pid) {
        Some((state, time)) => time == record.start_time && !matches!(state, b'Z' | b'X' | b'x'),
        None => false,
    }
}

/// Where the container stands. A zombie counts as stopped, a reused pid too.
pub fn status(record: &Record, state_dir: &Path) -> Status {
    if !is_alive(record) {
        return Status::Stopped;
    }
    if record.cgroup.frozen().unwrap_or(false) {
        return Status::Paused;
    }
    if state_dir.join(START_SOCKET).exists() { Status::Created } else { Status::Running }
}

/// The first process, surely the container's.
pub(crate) fn open_init(record: &Record) -> Result<OwnedFd> {
    let gone = || Error::sys("find", "the container's process", Errno::ESRCH);
    let pidfd = sys::pidfd_open(record.pid).map_err(|_| gone())?;
    // The number cannot be reused once the descriptor is open: look after, not before.
    if is_alive(record) { Ok(pidfd) } else { Err(gone()) }
}

/// Sends a signal to the first process, or to all.
pub fn signal(record: &Record, signal: i32, all: bool) -> Result<()> {
    if all {
        record.cgroup.signal_all(signal)?;
    } else {
        let pidfd = open_init(record)?;
        sys::pidfd_send_signal(pidfd.as_fd(), signal)
            .map_err(|error| Error::sys("signal", "the container's process", error))?;
        if record.shared_pid && signal == libc::SIGKILL {
            // Its children do not end with it.
            record.cgroup.signal_all(signal)?;
        }
    }
    if signal == libc::SIGKILL && record.cgroup.frozen().unwrap_or(false) {
        // A frozen process of v1 dies only when it may run.
        record.cgroup.thaw()?;
    }
    Ok(())
}

/// Freezes every process.
pub fn pause(record: &Record) -> Result<()> {
    Ok(record.cgroup.freeze()?)
}

/// Lets them run again.
pub fn resume(record: &Record) -> Result<()> {
    Ok(record.cgroup.thaw()?)
}

/// Changes limits.
pub fn update(record: &Record, resources: &LinuxResources) -> Result<()> {
    Ok(record.cgroup.apply(resources)?)
}

/// Reads statistics.
pub fn stats(record: &Record) -> Result<cgroups::Stats> {
    Ok(record.cgroup.stats()?)
}

/// All processes.
pub fn processes(record: &Record) -> Result<Vec<i32>> {
    Ok(record.cgroup.processes()?)
}

/// Removes what is left of a stopped container (of a living one with `force`): processes, cgroup.
pub fn delete(record: &Record, force: bool) -> Result<()> {
    if let Ok(pidfd) = open_init(record) {
        if !force {
            return Err(Error::Status { operation: "delete", status: Status::Running });
        }
        signal(record, libc::SIGKILL, false).or_else(|error| match error {
            // It ended by itself meanwhile.
            Error::Sys { ref source, .. } if source.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        })?;
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, END_MILLIS) == Err(Errno::EINTR) {}
    }
    // With those that were left behind (exec'd ones, children in a shared pid namespace).
    record.cgroup.clear()?;
    if let Some(rdt) = &record.rdt {
        rdt.remove()?;
    }
    if let Some(root) = &record.shared_root {
        root.detach().map_err(Error::Init)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives() {
        let pid = std::process::id() as i32;
        let record = Record { pid, start_time: start_time(pid).unwrap(), ..Record::default() };
        assert!(is_alive(&record));
        let reused = Record { start_time: record.start_time + 1, ..record };
        assert!(!is_alive(&reused));
    }
}
