//! Connections of the guest that have not said yet which they are.
//!
//! A guest may open as many as it likes and say nothing: only so many are kept.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use hull_agent::link::{Connection, PREAMBLE_LEN, Preamble};

use super::machine::wait_for;

/// How many connections may be undecided at a time: three for each of many execs at once.
const MAX_UNDECIDED: usize = 64;

struct Newcomer {
    stream: UnixStream,
    head: [u8; PREAMBLE_LEN],
    have: usize,
}

/// The undecided connections.
#[derive(Default)]
pub struct Newcomers(Vec<Newcomer>);

impl Newcomers {
    /// One more; beyond the limit the newest is turned away.
    pub fn add(&mut self, stream: UnixStream) {
        if self.0.len() < MAX_UNDECIDED && stream.set_nonblocking(true).is_ok() {
            self.0.push(Newcomer { stream, head: [0; PREAMBLE_LEN], have: 0 });
        }
    }

    /// Adds to a poll set.
    pub fn interest(&self, set: &mut Vec<libc::pollfd>) {
        set.extend(self.0.iter().map(|one| wait_for(one.stream.as_fd(), libc::POLLIN)));
    }

    /// Reads what has come; gives those that have said which they are.
    pub fn decide(&mut self) -> Vec<(Connection, UnixStream)> {
        let mut decided = Vec::new();
        let mut left = Vec::new();
        for mut one in self.0.drain(..) {
            match one.stream.read(&mut one.head[one.have..]) {
                Ok(0) => continue,
                Ok(n) => one.have += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => continue,
            }
            if one.have < PREAMBLE_LEN {
                left.push(one);
            } else if let Ok(Preamble(connection)) = Preamble::decode(&one.head) {
                decided.push((connection, one.stream));
            }
        }
        self.0 = left;
        decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_connection_is_known_once_its_whole_preamble_has_come() {
        let mut newcomers = Newcomers::default();
        let (mut guest, host) = UnixStream::pair().unwrap();
        newcomers.add(host);
        let bytes = Preamble(Connection::Stream { process: 4, stream: 2 }).encode();
        guest.write_all(&bytes[..5]).unwrap();
        assert!(newcomers.decide().is_empty());
        guest.write_all(&bytes[5..]).unwrap();
        let decided = newcomers.decide();
        assert_eq!(decided[0].0, Connection::Stream { process: 4, stream: 2 });
    }

    #[test]
    fn a_stranger_and_a_crowd_are_turned_away() {
        let mut newcomers = Newcomers::default();
        let (mut stranger, host) = UnixStream::pair().unwrap();
        newcomers.add(host);
        stranger.write_all(&[0; PREAMBLE_LEN]).unwrap();
        assert!(newcomers.decide().is_empty());
        assert!(newcomers.0.is_empty());
        let crowd: Vec<_> = (0..200).map(|_| UnixStream::pair().unwrap()).collect();
        for (_guest, host) in crowd {
            newcomers.add(host);
        }
        assert_eq!(newcomers.0.len(), MAX_UNDECIDED);
    }
}
