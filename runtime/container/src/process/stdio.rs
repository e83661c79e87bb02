//! stdin, stdout and stderr of the container's process: given descriptors or a terminal.

use crate::error::{Done, Trying};
use crate::path::Root;
use crate::pty;
use crate::sys;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Makes three descriptors the standard ones.
pub(crate) fn install(fds: [BorrowedFd<'_>; 3]) -> Done<()> {
    // A given descriptor may itself be 0, 1 or 2: copies first, so that none is overwritten.
    let mut copies = Vec::with_capacity(3);
    for fd in fds {
        let copy = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3))
            .trying(|| "copy a descriptor of stdio")?;
        copies.push(sys::owned(copy.into()).trying(|| "copy a descriptor of stdio")?);
    }
    for (number, copy) in copies.iter().enumerate() {
        onto(copy.as_fd(), number as i32)?;
    }
    Ok(())
}

fn onto(fd: BorrowedFd<'_>, number: i32) -> Done<()> {
    // SAFETY: takes integers only; what was open as 0, 1 or 2 is not owned by any Rust value.
    sys::check(unsafe { libc::dup2(fd.as_raw_fd(), number) } as libc::c_long)
        .trying(|| format!("make descriptor {number}"))
        .map(drop)
}

/// Makes those standard descriptors that are the caller's `/dev/null` the container's own: a file
/// of a mount that the container does not have could not be checkpointed.
pub(crate) fn own_null(root: &Root) -> Done<()> {
    let is_null = |fd: BorrowedFd<'_>| {
        sys::fstat(fd).is_ok_and(|stat| {
            stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
        })
    };
    let mut null = None;
    for number in 0..3 {
        // SAFETY: only looked at; a closed one makes fstat fail.
        if !is_null(unsafe { BorrowedFd::borrow_raw(number) }) {
            continue;
        }
        if null.is_none() {
            // Not to be trusted before it was looked at: an image may have a pipe there.
            let Ok(fd) = root.open(c"/dev/null", libc::O_RDWR | libc::O_NONBLOCK) else {
                return Ok(());
            };
            if !is_null(fd.as_fd()) {
                return Ok(());
            }
            nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))
                .trying(|| "open /dev/null")?;
            null = Some(fd);
        }
        if let Some(fd) = &null {
            onto(fd.as_fd(), number)?;
        }
    }
    Ok(())
}

/// A terminal of the container's own devpts: its master, and the slave.
pub(crate) fn open_terminal(root: &Root, modes: pty::Modes) -> Done<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = match root.open(c"/dev/pts/ptmx", flags) {
        // No devpts in the container: the caller's.
        Err(Errno::ENOENT) => sys::open(c"/dev/ptmx", flags, 0),
        master => master,
    }
    .trying(|| "process.terminal: open ptmx")?;
    let slave = pty::slave(master.as_fd()).trying(|| "process.terminal: open the slave")?;
    let size = modes.size;
    if size.rows != 0 || size.columns != 0 {
        pty::set_size(slave.as_fd(), size).trying(|| "process.consoleSize")?;
    }
    if modes.plain_newlines {
        pty::without_returns(slave.as_fd()).trying(|| "process.terminal: set its modes")?;
    }
    Ok((master, slave))
}

/// Makes the slave the controlling terminal and the three standard descriptors. The caller leads
/// its session.
pub(crate) fn use_terminal(slave: OwnedFd) -> Done<()> {
    for number in 0..3 {
        onto(slave.as_fd(), number)?;
    }
    // SAFETY: takes integers only.
    sys::check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } as libc::c_long)
        .trying(|| "process.terminal: make it the controlling terminal")
        .map(drop)
}
