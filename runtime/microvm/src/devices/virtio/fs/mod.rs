//! virtio-fs: a directory tree of the host, served to the guest in-process.

use std::os::fd::OwnedFd;

/// One shared tree.
#[derive(Debug)]
pub struct Config {
    /// The name the guest mounts it by; 1 to 36 bytes.
    pub tag: String,
    /// The tree's root directory.
    pub root: OwnedFd,
}
