//! System call filters: `linux.seccomp` compiled to a BPF program by libseccomp, cached by digest.
//!
//! Sources: `seccomp(2)`, "Seccomp" of the runtime specification, libseccomp's manual pages.

use oci::spec::LinuxSeccomp;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A filter could not be made or installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the filter.
    #[error("seccomp: install the filter: {0}")]
    Install(std::io::Error),
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Filter {
    /// `struct sock_filter[]`, native byte order.
    pub program: Vec<u8>,
    /// Flags of `seccomp(SECCOMP_SET_MODE_FILTER)`.
    pub flags: u32,
    /// Where the listener goes, when the filter notifies.
    pub listener_path: Option<PathBuf>,
    /// Opaque data for the listener.
    pub listener_metadata: Option<String>,
}

/// Compiles a profile (parent's side, before the clone).
pub fn compile(_seccomp: &LinuxSeccomp, _cache_dir: Option<&Path>) -> Result<Filter> {
    unimplemented!()
}

impl Filter {
    /// Installs the filter on the calling thread; no allocation, safe after `fork`. Gives the
    /// listener of a notifying filter, to be passed to the parent for [`send_listener`].
    pub fn install(&self) -> Result<Option<OwnedFd>> {
        unimplemented!()
    }
}

/// Sends the listener with the container process state to the filter's `listenerPath`. `pid` is
/// the filtered process as the runtime sees it.
pub fn send_listener(
    _filter: &Filter,
    _listener: OwnedFd,
    _state: &impl serde::Serialize,
    _pid: i32,
) -> Result<()> {
    unimplemented!()
}
