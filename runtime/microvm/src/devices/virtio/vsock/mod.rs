//! virtio-vsock (virtio 1.2, section 5.10), ended inside the VMM: each
//! connection of the guest is a socket pair, one end of it the owner's.
//!
//! * `device`: what the transport asks for;
//! * `muxer`: the queues, and which connection is next;
//! * `connection`: credit, buffers and half-closes of one connection;
//! * `packet`: header and buffers of one descriptor chain;
//! * `connector`: the owner's side.
//!
//! Data is moved between guest memory and sockets without a copy of our own,
//! but for what a full socket leaves over: at most [`BUF_ALLOC`] bytes for each
//! connection, which is the credit the guest is given.

mod connection;
mod connector;
mod device;
mod muxer;
mod packet;
#[cfg(test)]
mod tests;

pub use connector::{ConnectError, Connector, Listener};
pub use device::Vsock;

/// The host's address.
pub const HOST_CID: u64 = 2;
/// The guest's address.
pub const GUEST_CID: u64 = 3;
/// Bytes the guest may send on one connection before they are taken.
pub const BUF_ALLOC: u32 = 256 << 10;
/// Connections at once; more are refused.
pub const MAX_CONNECTIONS: usize = 1024;
/// Connections that wait to be accepted on one port.
pub const MAX_BACKLOG: usize = 64;
