//! `tmpcopyup`: a new tmpfs begins with what was at its place.

use crate::error::{Done, Trying};
use crate::sys::{self, resolve};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Deeper trees are a mistake or an attack on the stack.
const MAX_DEPTH: usize = 128;

/// Copies what is in `from` to `to`. Symbolic links are copied as such, nothing is followed.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Done<()> {
    let from = sys::openat(from, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)
        .trying(|| "tmpcopyup: open the directory below")?;
    directory(from.as_fd(), to, 0)
}

fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Done<()> {
    if depth > MAX_DEPTH {
        return Err(Errno::ELOOP).trying(|| "tmpcopyup: directories too deep");
    }
    let listing = sys::openat(from, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)
        .trying(|| "tmpcopyup: open a directory")?;
    let mut listing = nix::dir::Dir::from_fd(listing).trying(|| "tmpcopyup: read a directory")?;
    for entry in listing.iter() {
        let entry = entry.trying(|| "tmpcopyup: read a directory")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Done<()> {
    let what = |verb: &str| format!("tmpcopyup: {verb} {name:?}");
    let stat = nix::sys::stat::fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .trying(|| what("stat"))?;
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    match SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) {
        SFlag::S_IFDIR => {
            nix::sys::stat::mkdirat(to, name, mode).trying(|| what("create"))?;
            let confined = resolve::BENEATH | resolve::NO_SYMLINKS;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let below = sys::openat2(from, name, flags, 0, confined).trying(|| what("open"))?;
            let copy = sys::openat2(to, name, flags, 0, confined).trying(|| what("open"))?;
            directory(below.as_fd(), copy.as_fd(), depth + 1)?;
        }
        SFlag::S_IFLNK => {
            let target = nix::fcntl::readlinkat(from, name).trying(|| what("read"))?;
            nix::unistd::symlinkat(target.as_os_str(), to, name).trying(|| what("create"))?;
        }
        SFlag::S_IFREG => {
            let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let source = sys::openat(from, name, flags, 0).trying(|| what("open"))?;
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            let copy = sys::openat(to, name, flags, 0o600).trying(|| what("create"))?;
            contents(source.as_fd(), copy.as_fd()).trying(|| what("copy"))?;
        }
        kind => {
            nix::sys::stat::mknodat(to, name, kind, mode, stat.st_rdev)
                .trying(|| what("create"))?;
        }
    }
    let link = SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) == SFlag::S_IFLNK;
    nix::unistd::fchownat(
        to,
        name,
        Some(stat.st_uid.into()),
        Some(stat.st_gid.into()),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .trying(|| what("change the owner of"))?;
    if !link {
        use nix::sys::stat::FchmodatFlags;
        nix::sys::stat::fchmodat(to, name, mode, FchmodatFlags::FollowSymlink)
            .trying(|| what("change the mode of"))?;
    }
    Ok(())
}

fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> sys::Result<()> {
    loop {
        // SAFETY: null offsets mean the descriptors' own positions.
        let copied = unsafe {
            libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), 1 << 24)
        };
        match sys::check(copied as libc::c_long) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}
