//! Frames: a length of four bytes, little endian, then that many bytes of JSON.
//!
//! The length is compared with [`MAX_FRAME`] before a byte is stored, so that the other end
//! cannot make this one allocate more than that.

use std::io;

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The longest message to the guest: room for the longest config.json that is read.
pub const MAX_FRAME: usize = 20 << 20;

/// The longest message that is taken from the guest, and from a client of the control socket.
pub const MAX_REPORT: usize = 4 << 20;

const HEAD: usize = 4;

/// What is wrong with a frame.
#[derive(Debug, Error)]
pub enum FrameError {
    /// Longer than any message is.
    #[error("a message of {0} bytes on the host link; the longest is {1}")]
    TooLong(usize, usize),
    /// Not the message that was expected, or no JSON at all.
    #[error("a message on the host link cannot be read: {0}")]
    Malformed(serde_json::Error),
    /// A message of our own that cannot be written down.
    #[error("a message for the host link cannot be written: {0}")]
    Unwritable(serde_json::Error),
    /// The connection failed.
    #[error("host link: {0}")]
    Io(#[from] io::Error),
    /// The connection ended in the middle of a message.
    #[error("the host link ended in the middle of a message")]
    Truncated,
}

/// Appends `message` to `out` as a frame.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    if let Err(error) = serde_json::to_writer(&mut *out, message) {
        out.truncate(start);
        return Err(FrameError::Unwritable(error));
    }
    let len = out.len() - start - HEAD;
    if len > MAX_FRAME {
        out.truncate(start);
        return Err(FrameError::TooLong(len, MAX_FRAME));
    }
    out[start..start + HEAD].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(())
}

/// Puts frames together from whatever pieces a stream arrives in.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// An empty one that takes messages of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: Vec::new(), taken: 0 }
    }

    /// Takes what was read from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let pending = &self.buffer[self.taken..];
        let Some((head, rest)) = pending.split_first_chunk::<HEAD>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len > self.limit {
            return Err(FrameError::TooLong(len, self.limit));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let message = serde_json::from_slice(body).map_err(FrameError::Malformed)?;
        self.taken += HEAD + len;
        if self.taken == self.buffer.len() {
            self.buffer = Vec::new();
            self.taken = 0;
        }
        Ok(Some(message))
    }

    /// Is nothing left over?
    pub fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

/// Writes one message to a blocking stream.
pub fn write<T: Serialize>(mut to: impl io::Write, message: &T) -> Result<(), FrameError> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes)?;
    to.write_all(&bytes)?;
    Ok(())
}

/// Reads one message of up to `limit` bytes from a blocking stream; `None` if it ended before.
pub fn read<T: DeserializeOwned>(
    mut from: impl io::Read,
    limit: usize,
) -> Result<Option<T>, FrameError> {
    let mut head = [0; HEAD];
    let mut have = 0;
    while have < HEAD {
        match from.read(&mut head[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Truncated),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let len = u32::from_le_bytes(head) as usize;
    if len > limit {
        return Err(FrameError::TooLong(len, limit));
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Truncated,
        _ => FrameError::Io(e),
    })?;
    serde_json::from_slice(&body).map(Some).map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Answer, Ask, ExitStatus, Report, Request};

    fn framed(message: &Report) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn messages_arrive_whole_in_whatever_pieces() {
        let mut wire = Vec::new();
        for pid in 0..5 {
            let report = Report::Reply { seq: pid as u32, result: Ok(Answer::Process(pid)) };
            wire.extend(framed(&report));
        }
        for piece in [1, 2, 3, 7, 1000] {
            let mut decoder = Decoder::new(MAX_REPORT);
            let mut seen = 0;
            for chunk in wire.chunks(piece) {
                decoder.push(chunk);
                while let Some(report) = decoder.take::<Report>().unwrap() {
                    let Report::Reply { seq, result: Ok(Answer::Process(pid)) } = report else {
                        panic!("another message");
                    };
                    assert_eq!((seq, pid), (seen, seen as i32));
                    seen += 1;
                }
            }
            assert_eq!(seen, 5);
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::new(MAX_REPORT);
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.take::<Report>(), Err(FrameError::TooLong(..))));
        let head = (MAX_REPORT as u32 + 1).to_le_bytes();
        assert!(matches!(read::<Report>(&head[..], MAX_REPORT), Err(FrameError::TooLong(..))));
    }

    #[test]
    fn a_cut_message_is_an_error_and_an_end_between_messages_is_none() {
        let bytes = framed(&Report::Exited { process: 0, status: ExitStatus::Signal(9) });
        for cut in 1..bytes.len() {
            assert!(matches!(
                read::<Report>(&bytes[..cut], MAX_REPORT),
                Err(FrameError::Truncated)
            ));
        }
        assert!(matches!(read::<Report>(&bytes[..0], MAX_REPORT), Ok(None)));
    }

    #[test]
    fn deep_json_is_an_error_and_not_a_stack_overflow() {
        let body = "[".repeat(1 << 20);
        let mut wire = (body.len() as u32).to_le_bytes().to_vec();
        wire.extend_from_slice(body.as_bytes());
        assert!(matches!(read::<Report>(&wire[..], MAX_REPORT), Err(FrameError::Malformed(_))));
    }

    /// Bytes changed at random (a fixed linear congruence, so that a failure repeats) make
    /// an error or another message, never a panic.
    #[test]
    fn changed_bytes_never_panic() {
        let ask = Request { seq: 7, ask: Ask::Signal { process: 1, signal: 34, all: true } };
        let mut good = Vec::new();
        encode(&ask, &mut good).unwrap();
        let mut random: u64 = 42;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..3 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (random >> 33) as usize % bytes.len();
                bytes[at] = (random >> 20) as u8;
            }
            let mut decoder = Decoder::new(MAX_REPORT);
            decoder.push(&bytes);
            let _ = decoder.take::<Request>();
            let _ = read::<Request>(&bytes[..], MAX_REPORT);
        }
    }
}
