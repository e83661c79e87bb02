//! The machine: built, started, watched, stopped.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::config::{Config, Devices};
use crate::devices::virtio::vsock::Connector;
use crate::jail::Jail;
use crate::loading::Loading;

/// What can go wrong with a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// A machine that has not been started.
#[derive(Debug)]
pub struct Vm;

impl Vm {
    /// Makes the machine; the loading may still be under way.
    pub fn build(_config: &Config, _loading: Loading, _devices: Devices) -> Result<Vm, Error> {
        unimplemented!()
    }

    /// Starts device threads and vCPUs; each confines itself as `jail` says.
    pub fn start(self, _jail: &Jail) -> Result<Handle, Error> {
        unimplemented!()
    }
}

/// How a machine ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest powered off or rebooted.
    Shutdown,
    /// The guest's processor gave up (triple fault; also `reboot=t`).
    Reset,
    /// The guest kernel panicked.
    Panicked,
    /// The host stopped it.
    Stopped,
    /// The machine could not go on.
    Failed(Error),
}

/// A running machine.
#[derive(Debug)]
pub struct Handle;

impl Handle {
    /// The host's end of the guest's sockets.
    pub fn connector(&self) -> Connector {
        unimplemented!()
    }
    /// The guest kernel's log.
    pub fn console(&self) -> Console {
        unimplemented!()
    }
    /// Holds all vCPUs and devices; nothing touches guest memory afterwards.
    pub fn pause(&self) -> Result<(), Error> {
        unimplemented!()
    }
    /// Lets a paused machine go on.
    pub fn resume(&self) -> Result<(), Error> {
        unimplemented!()
    }
    /// Waits for the end.
    pub fn wait(&self) -> Outcome {
        unimplemented!()
    }
    /// Readable once the machine has ended.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
    /// Ends the machine from the host's side.
    pub fn stop(&self) {
        unimplemented!()
    }
    /// Names and times of what has happened so far, in order.
    pub fn phases(&self) -> Vec<(&'static str, Instant)> {
        unimplemented!()
    }
}

/// The last bytes of the guest kernel's log.
#[derive(Debug, Clone)]
pub struct Console;

impl Console {
    /// What is kept of the log, oldest first.
    pub fn tail(&self) -> Vec<u8> {
        unimplemented!()
    }
}
