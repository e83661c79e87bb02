//! virtio-fs (virtio 1.2, section 5.11): a directory tree of the host, served
//! to the guest in-process over the FUSE protocol.
//!
//! What a request meets on its way, in order:
//!
//! * [`device`]: configuration space, life cycle, what the transport asks for;
//! * `worker`: the thread that serves the queues;
//! * `request`: one descriptor chain, bounded and checked, handed to the FUSE
//!   server; the operations that server does not know;
//! * `tree`: the file system itself, over a table of `inode`s held by
//!   descriptor and a table of open `handle`s;
//! * `identity`: whose files a thread creates; `sys`: the system calls.
//!
//! Everything is reached from the tree's root descriptor by single names that
//! are never followed as symlinks, so nothing outside of the tree can be
//! named. No path is looked up after [`Fs::new`] has returned: the worker
//! needs neither `/proc` nor the host's root, and may be pivoted away.
//!
//! The worker needs these capabilities and no other: CHOWN, DAC_OVERRIDE,
//! DAC_READ_SEARCH, FOWNER, FSETID, SETUID, SETGID, MKNOD, SETFCAP; to take
//! leave of the uid fix-up it needs SETPCAP once, before it is confined.

pub mod device;
mod handle;
mod identity;
mod inode;
mod request;
mod sys;
#[cfg(test)]
mod tests;
mod tree;
mod worker;

use std::os::fd::OwnedFd;
use std::time::Duration;

pub use device::Fs;

/// One shared tree.
#[derive(Debug)]
pub struct Config {
    /// The name the guest mounts it by; 1 to 36 bytes.
    pub tag: String,
    /// The tree's root directory.
    pub root: OwnedFd,
}

/// The system calls of a worker once it is confined; the rest it needs only
/// before. Those of the allocator, of locks and of a thread's end are part.
pub const SYSCALLS: &[libc::c_long] = &[
    // Files.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    // glibc makes the first of the second without flags.
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_fchownat,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_getxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    // Their content.
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    libc::SYS_copy_file_range,
    libc::SYS_getdents64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    // Whose they are.
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capget,
    libc::SYS_capset,
    // Queues and orders: event descriptors and a lock.
    libc::SYS_poll,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_futex,
    // Memory, and the seed of a hash table.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_getrandom,
    // The end.
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// How long the guest may believe names and attributes it was told, so how
/// soon it sees what the host changes in a volume.
const TIMEOUT: Duration = Duration::from_secs(1);
