//! virtio-vsock, ended inside the VMM in unix socket pairs.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Why a connection to the guest cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens on that port in the guest, or the guest is gone.
    #[error("vsock port {0}: refused by the guest")]
    Refused(u32),
}

/// Makes connections between host and guest. Clones share the device.
#[derive(Debug, Clone)]
pub struct Connector;

impl Connector {
    /// Connects to a port the guest listens on.
    pub fn connect(&self, _port: u32) -> Result<UnixStream, ConnectError> {
        unimplemented!()
    }

    /// Accepts what the guest connects to on the host's port.
    pub fn listen(&self, _port: u32) -> Listener {
        unimplemented!()
    }
}

/// Connections the guest made to one port of the host.
#[derive(Debug)]
pub struct Listener;

impl Listener {
    /// Waits for the next one; `None` when the machine is gone.
    pub fn accept(&self) -> Option<UnixStream> {
        unimplemented!()
    }

    /// The next one, if one waits; never blocks.
    pub fn try_accept(&self) -> Option<UnixStream> {
        unimplemented!()
    }
}

impl AsFd for Listener {
    /// Readable while a connection waits to be accepted.
    fn as_fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
}
