//! The mount calls that work on descriptors: `fsopen`, `fsconfig`, `fsmount`, `open_tree`,
//! `move_mount`, `mount_setattr` (their manual pages; `linux/mount.h`).

use super::{Result, check, owned};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `MOUNT_ATTR_*`.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(crate) const ATIME: u64 = 0x70;
    pub(crate) const RELATIME: u64 = 0x0;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const IDMAP: u64 = 0x10_0000;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Propagation types, as `mount(2)` numbers them.
pub(crate) mod propagation {
    pub(crate) const UNBINDABLE: u64 = 1 << 17;
    pub(crate) const PRIVATE: u64 = 1 << 18;
    pub(crate) const SLAVE: u64 = 1 << 19;
    pub(crate) const SHARED: u64 = 1 << 20;
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

const AT_EMPTY_PATH: u32 = 0x1000;
const AT_RECURSIVE: u32 = 0x8000;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;

/// Opens a context for a new file system of type `kind`.
pub(crate) fn fsopen(kind: &CStr) -> Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    // SAFETY: `kind` is NUL-terminated.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

fn fsconfig(
    fs: BorrowedFd<'_>,
    command: u32,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both strings are NUL-terminated or null, which the commands used allow.
    check(unsafe {
        libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), command, pointer(key), pointer(value), 0)
    })
    .map(drop)
}

/// Sets a parameter without a value.
pub(crate) fn fs_flag(fs: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    fsconfig(fs, 0, Some(key), None)
}

/// Sets a parameter to a string.
pub(crate) fn fs_string(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    fsconfig(fs, 1, Some(key), Some(value))
}

/// Makes the file system of a context.
pub(crate) fn fs_create(fs: BorrowedFd<'_>) -> Result<()> {
    fsconfig(fs, 6, None, None)
}

/// A detached mount of a context's file system.
pub(crate) fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: u32 = 1;
    // SAFETY: takes integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
}

/// What the kernel wrote into a context's log, the last error first; empty if nothing.
pub(crate) fn fs_log(fs: BorrowedFd<'_>) -> String {
    let mut buffer = [0u8; 1024];
    let mut found = String::new();
    while let Ok(n) = nix::unistd::read(fs, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..n]);
        if let Some(text) = line.trim_end().strip_prefix("e ") {
            found = text.to_owned();
        }
        if n == 0 {
            break;
        }
    }
    found
}

/// A detached copy of the mount at `path` below `dir` (of `dir` itself if empty).
pub(crate) fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    const OPEN_TREE_CLONE: u32 = 1;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    if path.is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: `path` is NUL-terminated.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// The id of the mount that `path` below `dir` (`dir` itself if empty) lies on: one never used
/// again, where the kernel has those.
pub(crate) fn id(dir: BorrowedFd<'_>, path: &CStr) -> Result<u64> {
    const STATX_MNT_ID: u32 = 0x1000;
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `path` is NUL-terminated, the buffer a `struct statx`.
    check(libc::c_long::from(unsafe {
        libc::statx(
            dir.as_raw_fd(),
            path.as_ptr(),
            (AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) as i32,
            STATX_MNT_ID | STATX_MNT_ID_UNIQUE,
            found.as_mut_ptr(),
        )
    }))?;
    // SAFETY: any bits are a valid value, and the call succeeded.
    let found = unsafe { found.assume_init() };
    match found.stx_mask & (STATX_MNT_ID | STATX_MNT_ID_UNIQUE) {
        0 => Err(nix::errno::Errno::ENOSYS),
        _ => Ok(found.stx_mnt_id),
    }
}

/// Attaches the mount of `from` onto the file of `to`.
pub(crate) fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    const FROM_EMPTY: u32 = 0x4;
    const TO_EMPTY: u32 = 0x40;
    // SAFETY: both paths are empty strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            FROM_EMPTY | TO_EMPTY,
        )
    })
    .map(drop)
}

/// Attaches the mount of `from` onto `/`.
pub(crate) fn attach_to_root(from: BorrowedFd<'_>) -> Result<()> {
    const FROM_EMPTY: u32 = 0x4;
    // SAFETY: both paths are NUL-terminated.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            c"/".as_ptr(),
            FROM_EMPTY,
        )
    })
    .map(drop)
}

/// Changes attributes of the mount that `fd` is the root of.
pub(crate) fn set_attributes(
    fd: BorrowedFd<'_>,
    recursive: bool,
    attributes: &MountAttr,
) -> Result<()> {
    set_attributes_at(fd, c"", recursive, attributes)
}

/// Changes attributes of the mount at `path`.
pub(crate) fn set_attributes_at(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attributes: &MountAttr,
) -> Result<()> {
    let mut flags = AT_SYMLINK_NOFOLLOW;
    if path.is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: `path` is NUL-terminated; `attributes` outlives the call and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            attributes as *const MountAttr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// `pivot_root(".", ".")`: the old root ends up stacked on the new one.
pub(crate) fn pivot_root_here() -> Result<()> {
    // SAFETY: both paths are NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// Takes the topmost mount off the current directory, for good once nothing uses it.
pub(crate) fn detach_here() -> Result<()> {
    // SAFETY: the path is NUL-terminated.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) } as libc::c_long).map(drop)
}

/// `mount(2)` as a remount of the superblock and mount flags of the current attachment at `fd`:
/// only for what the newer calls cannot say.
pub(crate) fn remount(path: &CStr, flags: u64, data: Option<&CStr>) -> Result<()> {
    // SAFETY: all strings are NUL-terminated or null, which mount(2) allows for a remount.
    check(unsafe {
        libc::mount(
            std::ptr::null(),
            path.as_ptr(),
            std::ptr::null(),
            flags | libc::MS_REMOUNT,
            data.map_or(std::ptr::null(), |d| d.as_ptr().cast()),
        )
    } as libc::c_long)
    .map(drop)
}
