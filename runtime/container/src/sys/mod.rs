//! System calls that the C library or `nix` does not offer in the form needed here.
//!
//! Thin: every function is one call, knows no policy and returns the kernel's error number.
//! Sources: the manual pages of section 2 by the same names.

pub(crate) mod mount;

use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// Turns a raw return value into a result.
pub(crate) fn check(value: libc::c_long) -> Result<libc::c_long> {
    if value < 0 { Err(Errno::last()) } else { Ok(value) }
}

/// Takes ownership of a descriptor that a system call just returned.
pub(crate) fn owned(value: libc::c_long) -> Result<OwnedFd> {
    let raw = check(value)? as RawFd;
    // SAFETY: the kernel just gave this descriptor to us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Flags of `openat2` that confine a lookup.
pub(crate) mod resolve {
    pub(crate) const NO_XDEV: u64 = 0x01;
    pub(crate) const NO_MAGICLINKS: u64 = 0x02;
    pub(crate) const NO_SYMLINKS: u64 = 0x04;
    pub(crate) const BENEATH: u64 = 0x08;
    pub(crate) const IN_ROOT: u64 = 0x10;
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `openat2(2)`; `O_CLOEXEC` is always set.
pub(crate) fn openat2(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd> {
    let how =
        OpenHow { flags: (flags | libc::O_CLOEXEC) as u32 as u64, mode: mode as u64, resolve };
    loop {
        // SAFETY: `path` is NUL-terminated and `how` outlives the call; the size given is its own.
        let result = owned(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &how,
                size_of::<OpenHow>(),
            )
        });
        match result {
            // A rename or mount elsewhere raced with a confined lookup: the kernel asks to try again.
            Err(Errno::EAGAIN) if resolve & (resolve::IN_ROOT | resolve::BENEATH) != 0 => continue,
            Err(Errno::EINTR) => continue,
            result => return result,
        }
    }
}

/// `openat(2)` without confinement; `O_CLOEXEC` is always set.
pub(crate) fn openat(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated.
    owned(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode) }
        as libc::c_long)
}

/// `open(2)`; `O_CLOEXEC` is always set.
pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: `path` is NUL-terminated.
    owned(unsafe { libc::openat(libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, mode) }
        as libc::c_long)
}

/// The current directory, for calls that take a directory descriptor.
pub(crate) fn cwd() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is no descriptor that could be closed; the kernel knows it by its value.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`clone3`] returned, on either side.
pub(crate) enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// How [`clone3`] is to make the child.
#[derive(Default)]
pub(crate) struct CloneOptions<'a> {
    /// `CLONE_NEW*`.
    pub(crate) namespaces: u64,
    /// v2 cgroup that the child is born into.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The child becomes the caller's sibling.
    pub(crate) sibling: bool,
}

/// `clone3(2)` in the manner of `fork`.
///
/// # Safety
/// The caller must have a single thread: the child gets a copy of this memory, locks included.
pub(crate) unsafe fn clone3(options: &CloneOptions<'_>) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: options.namespaces | CLONE_PIDFD,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    if options.sibling {
        args.flags |= CLONE_PARENT;
        args.exit_signal = 0;
    }
    // SAFETY: no stack is given, so the child runs on a copy of this one as after fork(); `args`
    // and `pidfd` outlive the call; the size given is that of `args`.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: CLONE_PIDFD made the kernel store a fresh descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid: pid as i32, pidfd })
}

/// `pidfd_open(2)`.
pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: takes integers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// `pidfd_send_signal(2)`.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo means that the kernel fills it as for kill(2).
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// `setns(2)` by a namespace's or a process' descriptor.
pub(crate) fn setns(fd: BorrowedFd<'_>, kinds: i32) -> Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds) } as libc::c_long).map(drop)
}

/// `unshare(2)`.
pub(crate) fn unshare(kinds: i32) -> Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::unshare(kinds) } as libc::c_long).map(drop)
}

/// Marks all descriptors from `first` on to be closed by exec.
pub(crate) fn cloexec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    // SAFETY: takes integers only; no descriptor is closed now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Closes the descriptors from `first` to `last`; none, if `last` is before `first`.
pub(crate) fn close_between(first: u32, last: u32) -> Result<()> {
    if last < first {
        return Ok(());
    }
    // SAFETY: takes integers only. The caller sees to it that no value that owns one of these
    // descriptors is used or dropped after.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// `prctl(2)` with integer arguments.
pub(crate) fn prctl(option: i32, arg2: u64, arg3: u64) -> Result<i32> {
    // SAFETY: the options used in this crate take integers in these places and zeros behind.
    check(unsafe { libc::prctl(option, arg2, arg3, 0u64, 0u64) } as libc::c_long).map(|v| v as i32)
}

/// Ends this process at once: no destructors, no flushing of buffers shared with the parent.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Whether two descriptors are open on the same file, and its kind: what fstat tells.
pub(crate) fn fstat(fd: impl AsFd) -> Result<libc::stat> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the whole structure on success.
    check(unsafe { libc::fstat(fd.as_fd().as_raw_fd(), stat.as_mut_ptr()) } as libc::c_long)?;
    // SAFETY: filled, see above.
    Ok(unsafe { stat.assume_init() })
}

/// Type of the file system that a descriptor is on.
pub(crate) fn fs_magic(fd: impl AsFd) -> Result<i64> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the whole structure on success.
    check(unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), stat.as_mut_ptr()) } as libc::c_long)?;
    // SAFETY: filled, see above.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// `ST_*` of the mount that a descriptor is on.
pub(crate) fn fs_flags(fd: BorrowedFd<'_>) -> Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: filled as a whole on success.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), stat.as_mut_ptr()) } as libc::c_long)?;
    // SAFETY: filled, see above.
    Ok(unsafe { stat.assume_init() }.f_flag)
}

/// Reads at most `limit` bytes of a descriptor.
pub(crate) fn read_all(fd: BorrowedFd<'_>, limit: usize) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let mut chunk = [0u8; 4096];
    while data.len() < limit {
        match nix::unistd::read(fd, &mut chunk) {
            Ok(0) => break,
            Ok(n) => data.extend_from_slice(&chunk[..n]),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
        }
    }
    data.truncate(limit);
    Ok(data)
}

/// Writes to a descriptor in one call, as the kernel's own files want it.
pub(crate) fn write_once(fd: BorrowedFd<'_>, data: &[u8]) -> Result<()> {
    match nix::unistd::write(fd, data) {
        Ok(n) if n == data.len() => Ok(()),
        Ok(_) => Err(Errno::EIO),
        Err(error) => Err(error),
    }
}

/// Waits for a child; its wait status.
pub(crate) fn wait(pid: i32) -> Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        match check(unsafe { libc::waitpid(pid, &mut status, 0) } as libc::c_long) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
            Ok(_) => return Ok(status),
        }
    }
}
