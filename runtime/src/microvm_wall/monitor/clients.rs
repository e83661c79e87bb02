//! Connections that carry messages: to the guest's agent and to commands.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use hull_agent::link::{Decoder, FrameError, ProcessId, frame};
use serde::{Serialize, de::DeserializeOwned};

use super::machine::wait_for;
use crate::microvm_wall::protocol;

/// What may wait to be sent to one that does not read: more than the largest launch.
const MAX_QUEUED: usize = 64 << 20;

/// How many descriptors may wait for the message they belong to.
const MAX_DESCRIPTORS: usize = 3;

/// A connection that never blocks.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    decoder: Decoder,
    queued: Vec<u8>,
    /// Descriptors that came with the messages.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// On this stream, with messages of up to `limit` bytes.
    pub fn new(stream: UnixStream, limit: usize) -> Self {
        Self { stream, decoder: Decoder::new(limit), queued: Vec::new(), descriptors: Vec::new() }
    }

    /// Sends a message, now or when there is room.
    pub fn send<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        frame::encode(message, &mut self.queued)?;
        self.flush()?;
        if self.queued.len() > MAX_QUEUED {
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS).into());
        }
        Ok(())
    }

    /// Sends what waits.
    pub fn flush(&mut self) -> io::Result<()> {
        use nix::sys::socket::{MsgFlags, send};
        use std::os::fd::AsRawFd;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let mut sent = 0;
        while sent < self.queued.len() {
            match send(self.stream.as_raw_fd(), &self.queued[sent..], flags) {
                Ok(n) => sent += n,
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.queued.drain(..sent);
        Ok(())
    }

    /// Reads what is there; `false` at the end of the stream.
    pub fn fill(&mut self) -> Result<bool, FrameError> {
        let mut buffer = [0; 16 << 10];
        match protocol::receive(&self.stream, &mut buffer, &mut self.descriptors) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.descriptors.truncate(MAX_DESCRIPTORS);
                self.decoder.push(&buffer[..n]);
                Ok(true)
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(true),
                // The other end died with something unread.
                Some(libc::ECONNRESET | libc::EPIPE) => Ok(false),
                _ => Err(error.into()),
            },
        }
    }

    /// The next whole message.
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        self.decoder.take()
    }

    /// What to poll it for.
    pub fn interest(&self) -> libc::pollfd {
        let out = if self.queued.is_empty() { 0 } else { libc::POLLOUT };
        wait_for(self.stream.as_fd(), libc::POLLIN | out)
    }
}

/// A command that is connected.
#[derive(Debug)]
pub struct Client {
    /// To tell it from the others.
    pub id: u64,
    /// Its connection.
    pub channel: Channel,
    /// The process it runs.
    pub process: Option<ProcessId>,
    /// It is gone.
    pub gone: bool,
}
