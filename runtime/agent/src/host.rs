//! Connections to the host, over vsock(7).

use std::io::{self, Write};
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use hull_agent::link::{Connection, FrameError, HOST_CID, PORT, Preamble};
use thiserror::Error;

/// Why the host cannot be spoken to.
#[derive(Debug, Error)]
pub enum Error {
    /// A connection could not be made.
    #[error("{operation} the host: {source}")]
    Connect {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// What came over the link is no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The link ended: so does the guest.
    #[error("the host closed the link")]
    Closed,
    /// The loop's own descriptors failed.
    #[error("{operation}: {source}")]
    Loop {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Opens a connection and says which it is.
pub fn connect(connection: Connection) -> Result<OwnedFd, Error> {
    let failed = |operation| move |source| Error::Connect { operation, source };
    // SAFETY: socket takes no memory.
    let raw = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(failed("make a socket to")(io::Error::last_os_error()));
    }
    // SAFETY: the kernel just gave us this descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: an all-zero sockaddr_vm is a valid value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = HOST_CID;
    address.svm_port = PORT;
    // SAFETY: `address` is a sockaddr_vm of the length given.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_vm>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(failed("connect to")(io::Error::last_os_error()));
    }
    let mut stream = std::fs::File::from(socket);
    stream.write_all(&Preamble(connection).encode()).map_err(failed("greet"))?;
    Ok(stream.into())
}
