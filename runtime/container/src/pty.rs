//! Terminals: opening a pair, sizes, raw mode, and sending the master to a console socket.

use crate::Result;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Reads a terminal's size.
pub fn size(_terminal: impl AsFd) -> Result<Size> {
    unimplemented!()
}

/// Sets a terminal's size.
pub fn resize(_terminal: impl AsFd, _size: Size) -> Result<()> {
    unimplemented!()
}

/// Opens a terminal on the caller's `/dev/ptmx`: master and slave.
pub fn open() -> Result<(OwnedFd, OwnedFd)> {
    unimplemented!()
}

/// Sends a master to the console socket at `path` (any length), as runc does.
pub fn send(_path: &Path, _master: OwnedFd) -> Result<()> {
    unimplemented!()
}
