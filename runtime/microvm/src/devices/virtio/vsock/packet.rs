//! One packet: a header of 44 bytes and its data, in one descriptor chain of
//! any shape (virtio 1.2, section 5.10.6).

use std::io;
use std::os::fd::RawFd;

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

/// Bytes of a header.
pub const HEADER: usize = 44;
/// What one packet may carry at most (Linux sends up to 64 KiB).
pub const MAX_DATA: u32 = 64 << 10;
/// Descriptors of one packet; Linux uses two, or one for each page of 64 KiB.
const MAX_SEGMENTS: usize = 64;

/// The only type known here.
pub const TYPE_STREAM: u16 = 1;

/// Operations.
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Grants it.
    pub const RESPONSE: u16 = 2;
    /// Refuses or ends it.
    pub const RST: u16 = 3;
    /// Will not receive or send any more; see the flags.
    pub const SHUTDOWN: u16 = 4;
    /// Data.
    pub const RW: u16 = 5;
    /// Tells how much has been taken.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for that.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of SHUTDOWN.
pub mod shutdown {
    /// The sender of the packet receives no more.
    pub const RECEIVE: u32 = 1;
    /// The sender of the packet sends no more.
    pub const SEND: u32 = 2;
    /// Both.
    pub const BOTH: u32 = 3;
}

/// A header, read once, so that the guest cannot change it afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Sender's address.
    pub src_cid: u64,
    /// Receiver's address.
    pub dst_cid: u64,
    /// Sender's port.
    pub src_port: u32,
    /// Receiver's port.
    pub dst_port: u32,
    /// Bytes of data.
    pub len: u32,
    /// Stream or other.
    pub kind: u16,
    /// What it is about.
    pub op: u16,
    /// Of the operation.
    pub flags: u32,
    /// The sender's buffer.
    pub buf_alloc: u32,
    /// How much of what it received the sender has taken.
    pub fwd_cnt: u32,
}

impl Header {
    /// From the wire.
    pub fn parse(b: &[u8; HEADER]) -> Header {
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let u16_at = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Header {
            src_cid: u64_at(0),
            dst_cid: u64_at(8),
            src_port: u32_at(16),
            dst_port: u32_at(20),
            len: u32_at(24),
            kind: u16_at(28),
            op: u16_at(30),
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
        }
    }

    /// To the wire.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        b[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        b[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        b[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        b[24..28].copy_from_slice(&self.len.to_le_bytes());
        b[28..30].copy_from_slice(&self.kind.to_le_bytes());
        b[30..32].copy_from_slice(&self.op.to_le_bytes());
        b[32..36].copy_from_slice(&self.flags.to_le_bytes());
        b[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        b[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        b
    }
}

/// What is wrong with a descriptor chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// No room for a header.
    #[error("buffer of {0} bytes is too short for a header")]
    TooShort(usize),
    /// The header names more data than the buffer holds.
    #[error("header says {len} bytes of data, the buffer has {have}")]
    TooLong {
        /// From the header.
        len: u32,
        /// From the descriptors.
        have: usize,
    },
    /// More than one packet may carry.
    #[error("{0} bytes of data in one packet")]
    TooMuch(u32),
    /// More pieces than a driver ever makes.
    #[error("a packet of more than {MAX_SEGMENTS} descriptors")]
    TooManySegments,
    /// An address that is not memory.
    #[error("descriptor at {0:#x} is not in guest memory")]
    NotMemory(u64),
}

/// Pieces of guest memory, in order, all checked to be memory.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    segments: Vec<(GuestAddress, usize)>,
    len: usize,
}

impl Buffer {
    /// The readable (`writable` false) or writable part of a chain.
    pub fn of(
        chain: DescriptorChain<&GuestMemoryMmap>,
        mem: &GuestMemoryMmap,
        writable: bool,
    ) -> Result<Buffer, PacketError> {
        let mut buffer = Buffer::default();
        for descriptor in chain.filter(|d| d.is_write_only() == writable) {
            if buffer.segments.len() == MAX_SEGMENTS {
                return Err(PacketError::TooManySegments);
            }
            let (at, len) = (descriptor.addr(), descriptor.len() as usize);
            // One region must hold it all, so that it is one piece of the host's too.
            mem.get_slice(at, len).map_err(|_| PacketError::NotMemory(at.0))?;
            buffer.segments.push((at, len));
            buffer.len += len;
        }
        Ok(buffer)
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes the first `count` bytes off.
    pub fn skip(&mut self, mut count: usize) {
        self.len = self.len.saturating_sub(count);
        while let Some((at, len)) = self.segments.first_mut() {
            if count < *len {
                at.0 += count as u64;
                *len -= count;
                return;
            }
            count -= *len;
            self.segments.remove(0);
        }
    }

    /// Keeps the first `count` bytes only.
    pub fn truncate(&mut self, count: usize) {
        let mut left = count;
        for (_, len) in &mut self.segments {
            *len = (*len).min(left);
            left -= *len;
        }
        self.segments.retain(|(_, len)| *len != 0);
        self.len = self.len.min(count);
    }

    /// Copies the first bytes out.
    pub fn read(&self, mem: &GuestMemoryMmap, out: &mut [u8]) -> Result<(), PacketError> {
        if self.len < out.len() {
            return Err(PacketError::TooShort(self.len));
        }
        let mut done = 0;
        for (at, len) in &self.segments {
            let n = (*len).min(out.len() - done);
            mem.read_slice(&mut out[done..done + n], *at)
                .map_err(|_| PacketError::NotMemory(at.0))?;
            done += n;
        }
        Ok(())
    }

    /// Copies bytes in at the front.
    pub fn write(&self, mem: &GuestMemoryMmap, bytes: &[u8]) -> Result<(), PacketError> {
        if self.len < bytes.len() {
            return Err(PacketError::TooShort(self.len));
        }
        let mut done = 0;
        for (at, len) in &self.segments {
            let n = (*len).min(bytes.len() - done);
            mem.write_slice(&bytes[done..done + n], *at)
                .map_err(|_| PacketError::NotMemory(at.0))?;
            done += n;
        }
        Ok(())
    }

    fn vectors(&self, mem: &GuestMemoryMmap) -> io::Result<Vec<libc::iovec>> {
        self.segments
            .iter()
            .map(|(at, len)| {
                let slice = mem.get_slice(*at, *len).map_err(io::Error::other)?;
                Ok(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: *len })
            })
            .collect()
    }

    /// Sends all of it to a socket, without waiting.
    pub fn send(&self, mem: &GuestMemoryMmap, socket: RawFd) -> io::Result<usize> {
        let mut vectors = self.vectors(mem)?;
        message(&mut vectors, |msg| {
            // SAFETY: the vectors describe mapped guest memory, which outlives the call;
            // the kernel copes with the guest's changing it meanwhile.
            unsafe { libc::sendmsg(socket, msg, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
        })
    }

    /// Fills it from a socket, without waiting; 0 is the end of the stream.
    pub fn receive(&self, mem: &GuestMemoryMmap, socket: RawFd) -> io::Result<usize> {
        let mut vectors = self.vectors(mem)?;
        message(&mut vectors, |msg| {
            // SAFETY: the vectors describe mapped guest memory, which outlives the call
            // and to which no reference exists.
            unsafe { libc::recvmsg(socket, msg, libc::MSG_DONTWAIT) }
        })
    }
}

fn message(
    vectors: &mut [libc::iovec],
    mut call: impl FnMut(*mut libc::msghdr) -> isize,
) -> io::Result<usize> {
    // SAFETY: a zeroed msghdr is a valid empty one.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = vectors.as_mut_ptr();
    msg.msg_iovlen = vectors.len();
    loop {
        let n = call(&mut msg);
        if n >= 0 {
            return Ok(n as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Reads a packet the guest sent: its header, and where its data is.
pub fn read(
    chain: DescriptorChain<&GuestMemoryMmap>,
    mem: &GuestMemoryMmap,
) -> Result<(Header, Buffer), PacketError> {
    let mut buffer = Buffer::of(chain, mem, false)?;
    let mut bytes = [0; HEADER];
    buffer.read(mem, &mut bytes)?;
    let header = Header::parse(&bytes);
    buffer.skip(HEADER);
    if header.len > MAX_DATA {
        return Err(PacketError::TooMuch(header.len));
    }
    if header.len as usize > buffer.len() {
        return Err(PacketError::TooLong { len: header.len, have: buffer.len() });
    }
    buffer.truncate(header.len as usize);
    Ok((header, buffer))
}
