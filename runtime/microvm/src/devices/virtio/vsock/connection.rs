//! One connection: its socket, its credit in both directions, its half-closes.
//!
//! Counters are 32 bits and wrap, as the standard has them.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;

use vm_memory::GuestMemoryMmap;

use super::packet::{Buffer, Header, TYPE_STREAM, op, shutdown};
use super::{BUF_ALLOC, GUEST_CID, HOST_CID};
use crate::devices::event_loop::Token;

/// Host's port, then guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The host's end.
    pub host: u32,
    /// The guest's end.
    pub guest: u32,
}

bitflags::bitflags! {
    /// Packets a connection owes the guest, beside data.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Owed: u8 {
        /// Our request for a connection.
        const REQUEST = 1;
        /// Our consent.
        const RESPONSE = 2;
        /// How much we took.
        const CREDIT = 4;
        /// That we shut something down.
        const SHUTDOWN = 8;
    }
}

/// What the guest did is against the protocol; the connection must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Sent more than it had credit for.
    #[error("the guest sent more than its credit")]
    Credit,
    /// Sent data before the connection stood, or after it said it was done.
    #[error("the guest sent data out of order")]
    Order,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its ports.
    pub key: Key,
    /// Our end of the pair.
    pub stream: UnixStream,
    /// Its place in the event loop.
    pub token: Option<Token>,
    /// What the event loop calls it by.
    pub tag: u64,
    /// Who waits for it to be established; taken when it is.
    pub waiting: Option<SyncSender<bool>>,
    /// Both sides know of it.
    pub established: bool,
    /// What must be sent.
    pub owed: Owed,
    /// It stands in the list of those that have something to send.
    pub listed: bool,
    /// The socket may have something to read.
    pub readable: bool,
    /// What the socket did not take yet.
    backlog: VecDeque<u8>,
    /// Bytes received from the guest.
    received: Wrapping<u32>,
    /// Bytes of these that the socket took.
    forwarded: Wrapping<u32>,
    /// `forwarded`, as the guest was told last.
    told: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    /// The guest's buffer, and how much it took.
    peer_alloc: u32,
    peer_forwarded: Wrapping<u32>,
    /// The guest will not send (SEND) or receive (RECEIVE) any more.
    guest_done: u32,
    /// We told the guest the same of us.
    host_done: u32,
}

impl Connection {
    /// A connection not yet established.
    pub fn new(key: Key, stream: UnixStream) -> Connection {
        Connection {
            key,
            stream,
            token: None,
            tag: 0,
            waiting: None,
            established: false,
            owed: Owed::empty(),
            listed: false,
            readable: false,
            backlog: VecDeque::new(),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told: Wrapping(0),
            sent: Wrapping(0),
            peer_alloc: 0,
            peer_forwarded: Wrapping(0),
            guest_done: 0,
            host_done: 0,
        }
    }

    /// Takes the credit that comes with every packet.
    pub fn take_credit(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc;
        self.peer_forwarded = Wrapping(header.fwd_cnt);
    }

    /// Bytes the guest has room for.
    pub fn credit(&self) -> u32 {
        // More in flight than the buffer holds is the guest's lie or a buffer
        // made smaller: no credit either way.
        self.peer_alloc.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    /// Whether data could be sent: something to read, room, and a reader.
    pub fn can_send_data(&self) -> bool {
        self.established
            && self.readable
            && self.host_done & shutdown::SEND == 0
            && self.guest_done & shutdown::RECEIVE == 0
            && self.credit() > 0
    }

    /// Whether it has anything for the guest.
    pub fn has_work(&self) -> bool {
        !self.owed.is_empty() || self.can_send_data()
    }

    /// The header of a packet of ours.
    pub fn header(&self, op: u16) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: GUEST_CID,
            src_port: self.key.host,
            dst_port: self.key.guest,
            kind: TYPE_STREAM,
            op,
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.forwarded.0,
            ..Header::default()
        }
    }

    /// The next packet without data that is owed, if any.
    pub fn next_owed(&mut self) -> Option<Header> {
        let (flag, op) = [
            (Owed::REQUEST, op::REQUEST),
            (Owed::RESPONSE, op::RESPONSE),
            (Owed::CREDIT, op::CREDIT_UPDATE),
            (Owed::SHUTDOWN, op::SHUTDOWN),
        ]
        .into_iter()
        .find(|(flag, _)| self.owed.contains(*flag))?;
        self.owed.remove(flag);
        self.told = self.forwarded;
        let mut header = self.header(op);
        if flag == Owed::SHUTDOWN {
            header.flags = self.host_done;
        }
        Some(header)
    }

    /// Reads from the socket into the guest's buffer. `None`: nothing there
    /// (any more); the end of the stream becomes an owed SHUTDOWN.
    pub fn fill(&mut self, mem: &GuestMemoryMmap, mut buffer: Buffer) -> Option<Header> {
        buffer.truncate(self.credit() as usize);
        match buffer.receive(mem, self.stream.as_raw_fd()) {
            Ok(0) => {
                self.readable = false;
                self.stop_sending();
                None
            }
            Ok(n) => {
                self.sent += n as u32;
                self.told = self.forwarded;
                self.owed.remove(Owed::CREDIT);
                let mut header = self.header(op::RW);
                header.len = n as u32;
                Some(header)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                None
            }
            Err(_) => {
                self.readable = false;
                self.stop_sending();
                None
            }
        }
    }

    fn stop_sending(&mut self) {
        if self.host_done & shutdown::SEND == 0 {
            self.host_done |= shutdown::SEND;
            self.owed |= Owed::SHUTDOWN;
        }
    }

    fn stop_receiving(&mut self) {
        // What the socket will never take counts as taken.
        self.forwarded += self.backlog.len() as u32;
        self.backlog = VecDeque::new();
        if self.host_done & shutdown::RECEIVE == 0 {
            self.host_done |= shutdown::RECEIVE;
            self.owed |= Owed::SHUTDOWN;
        }
    }

    /// Data from the guest.
    pub fn receive(&mut self, mem: &GuestMemoryMmap, mut data: Buffer) -> Result<(), Violation> {
        if !self.established || self.guest_done & shutdown::SEND != 0 {
            return Err(Violation::Order);
        }
        let len = data.len();
        if self.backlog.len() + len > BUF_ALLOC as usize {
            return Err(Violation::Credit);
        }
        self.received += len as u32;
        if self.host_done & shutdown::RECEIVE != 0 {
            self.forwarded += len as u32;
            self.owe_credit();
            return Ok(());
        }
        if self.backlog.is_empty() && len > 0 {
            match data.send(mem, self.stream.as_raw_fd()) {
                Ok(n) => {
                    self.forwarded += n as u32;
                    data.skip(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.forwarded += len as u32;
                    self.stop_receiving();
                    return Ok(());
                }
            }
        }
        let left = data.len();
        if left > 0 {
            let mut bytes = vec![0; left];
            // The buffer was checked to be memory when it was made.
            if data.read(mem, &mut bytes).is_ok() {
                self.backlog.extend(bytes);
            }
        }
        self.owe_credit();
        Ok(())
    }

    /// The socket may take more now.
    pub fn drain(&mut self) {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            // SAFETY: the pointer and length are those of a slice.
            let n = unsafe {
                libc::send(
                    self.stream.as_raw_fd(),
                    front.as_ptr().cast(),
                    front.len(),
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if n > 0 {
                self.backlog.drain(..n as usize);
                self.forwarded += n as u32;
                continue;
            }
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => break,
                _ => self.stop_receiving(),
            }
        }
        if self.backlog.is_empty() {
            // An idle connection holds no buffer.
            self.backlog.shrink_to_fit();
            self.pass_on_end();
        }
        self.owe_credit();
    }

    fn owe_credit(&mut self) {
        if (self.forwarded - self.told).0 >= BUF_ALLOC / 4 {
            self.owed |= Owed::CREDIT;
        }
    }

    /// The guest will not send or receive any more.
    pub fn guest_shut(&mut self, flags: u32) {
        self.guest_done |= flags & shutdown::BOTH;
        if self.guest_done & shutdown::RECEIVE != 0 {
            // Who writes to the other end is told at once.
            let _ = self.stream.shutdown(Shutdown::Read);
            self.readable = false;
        }
        self.pass_on_end();
    }

    /// Once all data is through, the end of the guest's stream is as well.
    fn pass_on_end(&mut self) {
        if self.guest_done & shutdown::SEND != 0 && self.backlog.is_empty() {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The guest is done with it altogether and has been heard out.
    pub fn finished(&self) -> bool {
        self.guest_done == shutdown::BOTH && self.backlog.is_empty()
    }

    /// The other end of the pair is gone altogether.
    pub fn hung_up(&mut self) {
        // What it wrote before is still read; what we would write is lost.
        self.stop_receiving();
        self.readable = true;
    }

    /// Tells who waits for the connection how it went.
    pub fn settle(&mut self, granted: bool) {
        if let Some(waiting) = self.waiting.take() {
            // One slot, used once: it fails only if nobody waits any more.
            let _ = waiting.try_send(granted);
        }
    }
}
