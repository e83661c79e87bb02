//! Terminals: opening a pair, sizes, and sending the master to a console socket.
//!
//! Sources: pty(7), ioctl_tty(2); the console socket is runc's (docs/terminals.md).

use crate::sys;
use crate::{Error, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What a terminal begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    /// Its size; zeros: the kernel's.
    pub(crate) size: Size,
    /// As [`plain_newlines`].
    pub(crate) plain_newlines: bool,
}

/// Lets a newline that is printed come out as it is, without a carriage return (ONLCR): whoever
/// relays the output to a terminal of his own has one that adds it.
pub fn plain_newlines(terminal: impl AsFd) -> Result<()> {
    without_returns(terminal.as_fd())
        .map_err(|error| Error::sys("set", "the terminal's modes", error))
}

pub(crate) fn without_returns(terminal: BorrowedFd<'_>) -> sys::Result<()> {
    use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};
    let mut modes = tcgetattr(terminal)?;
    modes.output_flags.remove(OutputFlags::ONLCR);
    tcsetattr(terminal, SetArg::TCSANOW, &modes)
}

/// Reads a terminal's size.
pub fn size(terminal: impl AsFd) -> Result<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills one winsize.
    let done = sys::check(unsafe {
        libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size)
    } as libc::c_long);
    done.map_err(|error| Error::sys("read", "the terminal's size", error))?;
    Ok(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Sets a terminal's size.
pub fn resize(terminal: impl AsFd, size: Size) -> Result<()> {
    set_size(terminal.as_fd(), size)
        .map_err(|error| Error::sys("set", "the terminal's size", error))
}

pub(crate) fn set_size(terminal: BorrowedFd<'_>, size: Size) -> sys::Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    sys::check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }
        as libc::c_long)
    .map(drop)
}

/// The slave of a master, unlocked; found by the master alone, whatever is mounted.
pub(crate) fn slave(master: BorrowedFd<'_>) -> sys::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    sys::check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }
        as libc::c_long)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes integers only and gives a new descriptor.
    sys::owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) } as libc::c_long)
}

/// Opens a terminal on the caller's `/dev/ptmx`: master and slave.
pub fn open() -> Result<(OwnedFd, OwnedFd)> {
    let master = sys::open(c"/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY, 0)
        .map_err(|error| Error::sys("open", "/dev/ptmx", error))?;
    let slave = slave(master.as_fd())
        .map_err(|error| Error::sys("open", "the slave of a terminal", error))?;
    Ok((master, slave))
}

/// Connects to the unix socket at `path`, however long it is.
pub(crate) fn connect_to(path: &Path, kind: SockType) -> Result<OwnedFd> {
    let failed = |error| Error::sys("connect to", path.display().to_string(), error);
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let result = match UnixAddr::new(path) {
        Ok(address) => connect(socket.as_raw_fd(), &address),
        // Longer than an address can be: by way of its directory's descriptor.
        Err(_) => by_directory(path)
            .and_then(|(_directory, address)| connect(socket.as_raw_fd(), &address)),
    };
    result.map_err(failed)?;
    Ok(socket)
}

pub(crate) fn by_directory(path: &Path) -> sys::Result<(OwnedFd, UnixAddr)> {
    use nix::errno::Errno;
    let (parent, name) = path.parent().zip(path.file_name()).ok_or(Errno::ENOENT)?;
    let directory = std::fs::File::open(parent)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let short = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), name.to_string_lossy());
    let address = UnixAddr::new(short.as_str())?;
    Ok((directory.into(), address))
}

/// Sends a descriptor over a connected socket. Nobody looks at the name that goes along; it is the
/// one that runc sends.
fn pass(socket: BorrowedFd<'_>, name: &[u8], fd: BorrowedFd<'_>) -> sys::Result<()> {
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(name)],
        &[ControlMessage::ScmRights(&[fd.as_raw_fd()])],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(drop)
}

/// Sends a master over a connected console socket.
pub(crate) fn send_over(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    pass(socket, b"/dev/ptmx", master)
        .map_err(|error| Error::sys("send the terminal over", "the console socket", error))
}

/// A connected `--pidfd-socket`: gets a descriptor of the process that is made.
#[derive(Debug)]
pub struct PidfdSocket(OwnedFd);

impl PidfdSocket {
    /// Connects to the socket at `path` (any length).
    pub fn connect(path: &Path) -> Result<PidfdSocket> {
        connect_to(path, SockType::Stream).map(PidfdSocket)
    }

    /// Sends a descriptor of the process, which must not have been reaped.
    pub fn send(&self, pid: i32) -> Result<()> {
        let failed = |error| Error::sys("send a pidfd over", "the pidfd socket", error);
        let pidfd = sys::pidfd_open(pid).map_err(failed)?;
        pass(self.0.as_fd(), b"pidfd", pidfd.as_fd()).map_err(failed)
    }
}

/// Sends a master to the console socket at `path` (any length), as runc does.
pub fn send(path: &Path, master: OwnedFd) -> Result<()> {
    let socket = connect_to(path, SockType::Stream)?;
    send_over(socket.as_fd(), master.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_have_one_size() {
        let (master, slave) = open().unwrap();
        resize(&slave, Size { rows: 7, columns: 80 }).unwrap();
        assert_eq!(size(&master).unwrap(), Size { rows: 7, columns: 80 });
    }

    #[test]
    fn a_long_path_is_no_obstacle() {
        let dir = std::env::temp_dir().join(format!("container-pty-{}", std::process::id()));
        let deep = dir.join("d".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let short = std::path::PathBuf::from(format!("/proc/self/cwd/{}", "x"));
        let _ = short;
        let link = dir.join("l");
        std::os::unix::fs::symlink(&deep, &link).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(link.join("s")).unwrap();
        let (master, _slave) = open().unwrap();
        send(&deep.join("s"), master).unwrap();
        drop(listener);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
