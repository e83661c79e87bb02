//! The owner's side: connections to and from the guest, as unix sockets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::MAX_BACKLOG;
use super::muxer::Shared;
use crate::devices::bus::lock;

/// How long a guest may take to answer a request for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a connection to the guest cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens on that port in the guest.
    #[error("vsock port {0}: refused by the guest")]
    Refused(u32),
    /// The guest does not answer.
    #[error("vsock port {0}: no answer from the guest")]
    TimedOut(u32),
    /// Too many connections.
    #[error("vsock port {0}: too many connections")]
    TooMany(u32),
    /// A port can have one listener.
    #[error("vsock port {0}: already listened on")]
    InUse(u32),
    /// A system call failed.
    #[error("vsock port {port}: {operation}: {source}")]
    System {
        /// Which port.
        port: u32,
        /// Which call.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Makes connections between host and guest. Clones share the device.
#[derive(Debug, Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

impl Connector {
    pub(super) fn new(shared: Arc<Shared>) -> Connector {
        Connector { shared }
    }

    /// Connects to a port the guest listens on. Waits for its answer.
    pub fn connect(&self, port: u32) -> Result<UnixStream, ConnectError> {
        let (ours, theirs) = UnixStream::pair().map_err(|source| ConnectError::System {
            port,
            operation: "socketpair",
            source,
        })?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let key = self.shared.connect(port, ours, sender)?;
        match receiver.recv_timeout(PATIENCE) {
            Ok(true) => Ok(theirs),
            Ok(false) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(ConnectError::Refused(port))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.shared.forget(key);
                Err(ConnectError::TimedOut(port))
            }
        }
    }

    /// The guest is gone: takes what it sent last, ends all connections, and
    /// tells who waits for one.
    pub(crate) fn close(&self) {
        self.shared.close();
    }

    /// Accepts what the guest connects to on the host's port.
    pub fn listen(&self, port: u32) -> Result<Listener, ConnectError> {
        let queue = Arc::new(Queue::new().map_err(|source| ConnectError::System {
            port,
            operation: "eventfd",
            source,
        })?);
        if !self.shared.listen(port, Arc::clone(&queue)) {
            return Err(ConnectError::InUse(port));
        }
        Ok(Listener { port, queue, shared: Arc::clone(&self.shared) })
    }
}

/// Connections that wait to be accepted.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Counts what waits; a semaphore, so that it stays readable until taken.
    event: OwnedFd,
}

#[derive(Debug, Default)]
struct Waiting {
    streams: VecDeque<UnixStream>,
    closed: bool,
}

impl Queue {
    fn new() -> io::Result<Queue> {
        // SAFETY: eventfd has no conditions; the result is checked.
        let fd = unsafe {
            libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Queue {
            waiting: Mutex::default(),
            // SAFETY: the descriptor is new and nobody else's.
            event: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }

    fn signal(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight bytes of a local. The count is far from its limit.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Whether another one may wait.
    pub fn has_room(&self) -> bool {
        let waiting = lock(&self.waiting);
        !waiting.closed && waiting.streams.len() < MAX_BACKLOG
    }

    pub fn push(&self, stream: UnixStream) {
        lock(&self.waiting).streams.push_back(stream);
        self.signal();
    }

    /// There will be no more.
    pub fn close(&self) {
        lock(&self.waiting).closed = true;
        self.signal();
    }

    /// `None`: nothing waits now; `Some(None)`: nothing ever will.
    fn take(&self) -> Option<Option<UnixStream>> {
        let mut waiting = lock(&self.waiting);
        if let Some(stream) = waiting.streams.pop_front() {
            let mut count = [0_u8; 8];
            // SAFETY: eight bytes of a local.
            unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
            return Some(Some(stream));
        }
        waiting.closed.then_some(None)
    }
}

/// Connections the guest made to one port of the host. Dropped, the port is
/// free again.
#[derive(Debug)]
pub struct Listener {
    port: u32,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

impl Listener {
    /// Waits for the next one; `None` when the machine is gone.
    pub fn accept(&self) -> Option<UnixStream> {
        loop {
            if let Some(done) = self.queue.take() {
                return done;
            }
            let mut poll =
                libc::pollfd { fd: self.queue.event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd, a local.
            unsafe { libc::poll(&mut poll, 1, -1) };
        }
    }

    /// The next one if it is there.
    pub fn try_accept(&self) -> Option<UnixStream> {
        self.queue.take().flatten()
    }
}

/// Readable when a connection waits or the machine is gone.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.event.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.unlisten(self.port);
    }
}
