//! What parent and child say to each other while a container is made.
//!
//! A pair of sequenced-packet sockets: one packet is one message, a tag and a body, descriptors
//! beside. The end of the stream means that the other side is gone; from the child's side it also
//! means, after [`Tag::Start`], that the program was executed.

use crate::error::Failure;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Long enough for every message and short enough for one packet.
const MAX_BODY: usize = 16 << 10;

/// As many descriptors as a message ever carries: one for each cgroup hierarchy, and some.
const MAX_FDS: usize = 64;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    /// Child: the pid of the process that will be the container's (made by an intermediate one).
    Pid = b'p',
    /// Child: needs the ids of its user namespace.
    Mapping = b'm',
    /// Child: needs its resource limits raised.
    Limits = b'l',
    /// Child: needs to be moved into its cgroup.
    Cgroup = b'c',
    /// Child: the hooks of the host may run.
    Hooks = b'h',
    /// Child: here is the source of a mount (the body is its index): needs its options set.
    Source = b'o',
    /// Child: here is the terminal's master.
    Console = b't',
    /// Child: here is the listener of its filter.
    Listener = b'n',
    /// Child: set up.
    Ready = b'r',
    /// Either: failed; errno and words.
    Failed = b'e',
    /// Stub: the program cannot be executed; three zeros, errno and path.
    Exec = b'x',
    /// Parent: done, go on.
    Go = b'g',
    /// Parent: execute the program.
    Start = b's',
    /// Parent: it goes away, wait for a start by the socket.
    Keep = b'k',
}

impl Tag {
    fn from(byte: u8) -> Option<Tag> {
        use Tag::*;
        [
            Pid, Mapping, Limits, Cgroup, Hooks, Source, Console, Listener, Ready, Failed, Exec,
            Go, Start, Keep,
        ]
        .into_iter()
        .find(|tag| *tag as u8 == byte)
    }
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) tag: Tag,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Message {
    /// The failure that a [`Tag::Failed`] or [`Tag::Exec`] message carries.
    pub(crate) fn failure(&self) -> Failure {
        if self.tag == Tag::Exec {
            let (errno, path) = self.body.split_at(self.body.len().min(7));
            let number = errno.get(3..).and_then(|number| number.try_into().ok());
            return Failure {
                what: format!("exec {}", String::from_utf8_lossy(path)),
                errno: number.map(i32::from_le_bytes).unwrap_or(libc::ENOEXEC),
            };
        }
        let (errno, words) = self.body.split_at(self.body.len().min(4));
        Failure {
            what: String::from_utf8_lossy(words).into_owned(),
            errno: errno.try_into().map(i32::from_le_bytes).unwrap_or(0),
        }
    }

    /// A number in the body.
    pub(crate) fn number(&self) -> i32 {
        self.body.as_slice().try_into().map(i32::from_le_bytes).unwrap_or(0)
    }
}

/// The body of a [`Tag::Failed`] message.
pub(crate) fn failure_body(failure: &Failure) -> Vec<u8> {
    let mut body = failure.errno.to_le_bytes().to_vec();
    let words = failure.what.as_bytes();
    body.extend_from_slice(&words[..words.len().min(MAX_BODY - 16)]);
    body
}

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> nix::Result<(Channel, Channel)> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Channel(one), Channel(other)))
    }

    /// An end that was made elsewhere.
    pub(crate) fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(crate) fn send(&self, tag: Tag, body: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
        let tag = [tag as u8];
        let parts = [IoSlice::new(&tag), IoSlice::new(body)];
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => continue,
                result => return result.map(drop),
            }
        }
    }

    /// The next message; `None` when the other side is gone.
    pub(crate) fn receive(&self) -> nix::Result<Option<Message>> {
        let mut buffer = vec![0u8; MAX_BODY];
        let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let received = match recvmsg::<()>(
                self.0.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => return Ok(None),
                received => received?,
            };
            let length = received.bytes;
            let mut fds = Vec::new();
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(raw) = message {
                    // SAFETY: the kernel just installed these descriptors for us.
                    fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            if length == 0 {
                return Ok(None);
            }
            let tag = Tag::from(buffer[0]).ok_or(Errno::EBADMSG)?;
            buffer.truncate(length);
            buffer.remove(0);
            return Ok(Some(Message { tag, body: buffer, fds }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_crosses_whole() {
        let (here, there) = Channel::pair().unwrap();
        let failure = Failure { what: "mount tmpfs to /run".into(), errno: libc::EPERM };
        there.send(Tag::Failed, &failure_body(&failure), &[]).unwrap();
        let message = here.receive().unwrap().unwrap();
        assert_eq!(message.tag, Tag::Failed);
        assert_eq!(message.failure(), failure);
        drop(there);
        assert!(here.receive().unwrap().is_none());
    }

    #[test]
    fn a_huge_failure_is_cut() {
        let failure = Failure { what: "x".repeat(1 << 20), errno: 0 };
        assert!(failure_body(&failure).len() < MAX_BODY);
    }
}
