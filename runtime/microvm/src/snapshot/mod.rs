//! Keeps a paused machine in two files and brings it back: `memory`, which
//! holds guest memory with holes where it is zero, and `state`, which holds
//! everything else as JSON.
//!
//! A restored machine maps the memory file copy-on-write: it starts at once,
//! many of its sisters may share it, and none of them changes it.
//!
//! Connections over vsock do not survive: the guest is told that they are
//! gone. The kernel's log kept so far is the old machine's.

mod memory;
mod state;

use std::fs::File;
use std::io;

pub use state::State;

/// The two files of a saved machine.
#[derive(Debug)]
pub struct Files {
    /// Everything but memory.
    pub state: File,
    /// Guest memory.
    pub memory: File,
}

/// Saving or restoring failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Only what is paused can be saved.
    #[error("snapshot: the machine is not paused")]
    NotPaused,
    /// The memory file cannot be written.
    #[error("snapshot memory: {operation}: {source}")]
    Memory {
        /// The call.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The memory file is not as long as memory.
    #[error("snapshot memory: {have} bytes instead of {want}")]
    MemorySize {
        /// Of the file.
        have: u64,
        /// From the state.
        want: u64,
    },
    /// The state cannot be written or read.
    #[error("snapshot state: {0}")]
    State(serde_json::Error),
    /// Of another version of this program.
    #[error("snapshot state: version {have}, this program reads {want}")]
    Version {
        /// Of the file.
        have: u32,
        /// This program's.
        want: u32,
    },
    /// The state is well formed but cannot be a machine's.
    #[error("snapshot state: bad {0}")]
    Field(&'static str),
    /// Other devices than the saved machine had.
    #[error("snapshot state: {have} virtio devices saved, {want} given")]
    Devices {
        /// In the state.
        have: usize,
        /// Given by the caller.
        want: usize,
    },
}
