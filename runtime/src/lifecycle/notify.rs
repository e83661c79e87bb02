//! Readiness (sd_notify(3)): what a container's program says of itself, passed on to the service
//! manager that hull was started by.
//!
//! The program gets a socket of its own, by a mount below `/run/notify`. Of what it says `READY=1`
//! is passed on, together with the process that the manager is to watch from then on, as runc does;
//! the manager's own socket stays outside. A container's id is all that `create` and `start` share,
//! so the socket is found by its place in the state directory.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci::spec::{MountBuilder, Spec};
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// The variable that names a socket, the manager's to hull and hull's to the program.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The directory in the state directory, and the socket in it.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";

/// Where the container sees the directory.
const INSIDE: &str = "/run/notify";

/// How long the manager may take to have read what it was sent (as in sd_notify_barrier(3)'s users).
const BARRIER_MILLIS: u16 = 30_000;

/// The manager's socket, if there is a manager that waits.
pub(super) fn manager() -> Option<OsString> {
    std::env::var_os(VARIABLE).filter(|path| !path.is_empty())
}

/// Makes the directory that the container is to see, and says so in its configuration.
pub(super) fn prepare(
    spec: &mut Spec,
    state_dir: &Path,
    guard: Option<&container::Guard>,
) -> Result<()> {
    let directory = state_dir.join(DIRECTORY);
    if let Some(guard) = guard {
        guard.directory(&directory, true);
    }
    DirBuilder::new()
        .mode(0o755)
        .create(&directory)
        .map_err(|source| Error::file("making", &directory, source))?;
    amend(spec, &directory);
    Ok(())
}

/// The mark of images of a container that sees the directory: CRIU must be told of it again.
const MARK: &str = "hull-notify";

/// Says in a checkpointed container's configuration that it sees the directory; whether it does.
pub(super) fn recall(spec: &mut Spec, state_dir: &Path) -> bool {
    let directory = state_dir.join(DIRECTORY);
    let there = directory.is_dir();
    if there {
        amend(spec, &directory);
    }
    there
}

/// Marks the images of such a container.
pub(super) fn mark(images: &Path) -> Result<()> {
    let path = images.join(MARK);
    File::create(&path).map(drop).map_err(|source| Error::file("making", path, source))
}

/// Whether they are marked.
pub(super) fn is_marked(images: &Path) -> bool {
    images.join(MARK).exists()
}

fn amend(spec: &mut Spec, directory: &Path) {
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
    let mount =
        MountBuilder::default().destination(INSIDE).source(directory).options(options).build().ok();
    spec.mounts_mut().get_or_insert_default().extend(mount);
    if let Some(process) = spec.process_mut() {
        let env = process.env_mut().get_or_insert_default();
        env.retain(|entry| entry.split_once('=').is_none_or(|(name, _)| name != VARIABLE));
        env.push(format!("{VARIABLE}={INSIDE}/{SOCKET}"));
    }
}

/// The socket of one container, and the manager's.
#[derive(Debug)]
pub(super) struct Socket {
    own: UnixDatagram,
    manager: UnixDatagram,
}

impl Socket {
    /// Listens for a container; `None` if it was made without a manager.
    pub(super) fn bind(
        state_dir: &Path,
        manager: OsString,
        guard: Option<&container::Guard>,
    ) -> Result<Option<Socket>> {
        let path = state_dir.join(DIRECTORY);
        let directory =
            match OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&path) {
                Ok(directory) => directory,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(Error::file("opening", path, source)),
            };
        let manager = connect(&manager)?;
        let path = path.join(SOCKET);
        if let Some(guard) = guard {
            guard.directory(&path, true);
        }
        let own = bind(&directory).map_err(|source| Error::file("listening on", &path, source))?;
        Ok(Some(Socket { own, manager }))
    }

    /// Waits until the container, whose process [`watch`] was given, is ready or has ended, and
    /// tells the manager to watch the process `main` from now on.
    pub(super) fn forward(&self, process: Option<OwnedFd>, main: u32) -> Result<()> {
        let ended = process.as_ref().map(AsFd::as_fd);
        let Some(ready) = self.wait_for_ready(ended)? else { return Ok(()) };
        let failed = |source| Error::System { operation: "notifying the service manager", source };
        self.manager.send(&[&ready[..], b"\n"].concat()).map_err(failed)?;
        self.manager.send(format!("MAINPID={main}\n").as_bytes()).map_err(failed)?;
        self.barrier(ended).map_err(|errno| failed(errno.into()))
    }

    fn wait_for_ready(&self, ended: Option<BorrowedFd<'_>>) -> Result<Option<Vec<u8>>> {
        let failed = |source| Error::System { operation: "waiting for READY=1", source };
        self.own.set_nonblocking(true).map_err(failed)?;
        let mut message = [0; 4096];
        loop {
            let over = wait(self.own.as_fd(), ended, PollTimeout::NONE)
                .map_err(|errno| failed(errno.into()))?;
            // What was said before the end counts.
            loop {
                match self.own.recv(&mut message) {
                    Ok(length) => {
                        if let Some(line) = ready_line(&message[..length]) {
                            return Ok(Some(line.to_vec()));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(failed(error)),
                }
            }
            if over {
                return Ok(None);
            }
        }
    }

    /// Waits until the manager has read it all: after that this process may be gone, which else
    /// would be too early to be asked for who it was. A manager that takes too long is let be.
    fn barrier(&self, ended: Option<BorrowedFd<'_>>) -> nix::Result<()> {
        let (ours, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        sendmsg::<()>(
            self.manager.as_raw_fd(),
            &[IoSlice::new(b"BARRIER=1")],
            &[ControlMessage::ScmRights(&[theirs.as_raw_fd()])],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        drop(theirs);
        wait(ours.as_fd(), ended, PollTimeout::from(BARRIER_MILLIS)).map(drop)
    }
}

/// The process whose end is to be seen; `None` if it has ended so that nothing is left of it.
pub(super) fn watch(pid: i32) -> Result<Option<OwnedFd>> {
    container::pidfd::find(pid).map_err(|errno| Error::System {
        operation: "watching the container's process",
        source: errno.into(),
    })
}

/// Waits for something on a descriptor, or for the end of a process: whether that has come.
fn wait(
    one: BorrowedFd<'_>,
    ended: Option<BorrowedFd<'_>>,
    time: PollTimeout,
) -> nix::Result<bool> {
    let Some(ended) = ended else { return Ok(true) };
    let mut fds = [PollFd::new(one, PollFlags::POLLIN), PollFd::new(ended, PollFlags::POLLIN)];
    match poll(&mut fds, time) {
        Ok(_) => Ok(fds[1].any().unwrap_or(false)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}

fn ready_line(message: &[u8]) -> Option<&[u8]> {
    message.split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="))
}

/// By way of the directory's descriptor: its path may be longer than an address.
fn bind(directory: &File) -> std::io::Result<UnixDatagram> {
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
    let socket = UnixDatagram::bind(&path)?;
    // Whoever the program is.
    std::fs::set_permissions(&path, Permissions::from_mode(0o777))?;
    Ok(socket)
}

fn connect(manager: &OsString) -> Result<UnixDatagram> {
    let failed = |source| Error::file("connecting to NOTIFY_SOCKET", manager, source);
    let address = match manager.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(manager),
    };
    let socket = UnixDatagram::unbound().map_err(failed)?;
    socket.connect_addr(&address.map_err(failed)?).map_err(failed)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_found_among_other_lines() {
        assert_eq!(ready_line(b"STATUS=up\nREADY=1\nX=2"), Some(&b"READY=1"[..]));
        assert_eq!(ready_line(b"STATUS=READY=1"), None);
    }

    #[test]
    fn the_program_is_told_of_its_own_socket_only() {
        let mut spec = Spec::default();
        let env = vec!["NOTIFY_SOCKET=/image".to_owned(), "A=b".to_owned()];
        spec.process_mut().get_or_insert_default().set_env(Some(env));
        let before = spec.mounts().as_ref().map_or(0, Vec::len);
        amend(&mut spec, Path::new("/state/notify"));
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(env, ["A=b", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
        let mounts = spec.mounts().clone().unwrap();
        assert_eq!(mounts.len(), before + 1);
        assert_eq!(mounts[before].destination(), Path::new("/run/notify"));
    }
}
