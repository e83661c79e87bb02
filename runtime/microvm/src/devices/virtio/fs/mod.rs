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
//! The system calls of the worker are on the list of `Role::Fs`. It needs these
//! capabilities and no other: CHOWN, DAC_OVERRIDE,
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

/// How long the guest may believe names and attributes it was told, so how
/// soon it sees what the host changes in a volume.
const TIMEOUT: Duration = Duration::from_secs(1);
