//! The first bytes of every connection: which connection it is.
//!
//! ```text
//! 0      4        6      7        8          12
//! magic  version  kind   stream   process    (little endian)
//! ```

use thiserror::Error;

use super::{ProcessId, VERSION};

/// Length of a preamble.
pub const PREAMBLE_LEN: usize = 12;

const MAGIC: [u8; 4] = *b"hull";
const CONTROL: u8 = 1;
const STREAM: u8 = 2;

/// Which connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// The one that carries messages.
    Control,
    /// A standard stream of a process: 0, 1 or 2.
    Stream {
        /// Of which process.
        process: ProcessId,
        /// Which of its streams.
        stream: u8,
    },
}

/// The fixed-size head of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble(pub Connection);

/// What is wrong with a preamble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PreambleError {
    /// It does not start as one of ours.
    #[error("the guest's connection does not start as the agent's do")]
    Magic,
    /// Agent and monitor are of different builds.
    #[error("the guest's agent speaks version {0} of the host link, not {VERSION}")]
    Version(u16),
    /// A kind that does not exist.
    #[error("the guest opened a connection of unknown kind {0}")]
    Kind(u8),
    /// A stream other than 0, 1, 2.
    #[error("the guest opened a connection for stream {0}")]
    Stream(u8),
}

impl Preamble {
    /// The bytes to send.
    pub fn encode(self) -> [u8; PREAMBLE_LEN] {
        let (kind, stream, process) = match self.0 {
            Connection::Control => (CONTROL, 0, 0),
            Connection::Stream { process, stream } => (STREAM, stream, process),
        };
        let mut bytes = [0; PREAMBLE_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = kind;
        bytes[7] = stream;
        bytes[8..].copy_from_slice(&process.to_le_bytes());
        bytes
    }

    /// Reads and checks what the other end sent.
    pub fn decode(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, PreambleError> {
        let [m0, m1, m2, m3, v0, v1, kind, stream, p0, p1, p2, p3] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(PreambleError::Magic);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(PreambleError::Version(version));
        }
        match (kind, stream) {
            (CONTROL, _) => Ok(Self(Connection::Control)),
            (STREAM, 0..=2) => {
                let process = u32::from_le_bytes([p0, p1, p2, p3]);
                Ok(Self(Connection::Stream { process, stream }))
            }
            (STREAM, _) => Err(PreambleError::Stream(stream)),
            (kind, _) => Err(PreambleError::Kind(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_survives_the_wire() {
        for connection in [
            Connection::Control,
            Connection::Stream { process: 0, stream: 0 },
            Connection::Stream { process: u32::MAX, stream: 2 },
        ] {
            let preamble = Preamble(connection);
            assert_eq!(Preamble::decode(&preamble.encode()), Ok(preamble));
        }
    }

    #[test]
    fn a_foreign_preamble_is_refused() {
        let good = Preamble(Connection::Stream { process: 3, stream: 1 }).encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Preamble::decode(&bytes)
        };
        assert_eq!(with(0, b'H'), Err(PreambleError::Magic));
        assert_eq!(with(4, 99), Err(PreambleError::Version(99)));
        assert_eq!(with(6, 7), Err(PreambleError::Kind(7)));
        assert_eq!(with(7, 3), Err(PreambleError::Stream(3)));
    }
}
