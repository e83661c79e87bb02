//! A running machine, from its owner's side.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Instant;

use super::build::Parts;
use super::{Error, Outcome};
use crate::devices::bus::lock;
use crate::devices::serial::Console;
use crate::devices::virtio::vsock::Connector;

/// The threads of a machine, to be waited for.
pub(super) type Threads = Vec<JoinHandle<()>>;

/// A running machine. Dropped, it is stopped.
#[derive(Debug)]
pub struct Handle {
    parts: Parts,
    threads: Mutex<Threads>,
    paused: Mutex<bool>,
}

impl Handle {
    pub(super) fn new(parts: Parts, threads: Threads) -> Handle {
        Handle { parts, threads: Mutex::new(threads), paused: Mutex::new(true) }
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(super) fn adopt(&self, thread: JoinHandle<()>) {
        lock(&self.threads).push(thread);
    }

    /// The host's end of the guest's sockets; `None` without that device.
    pub fn connector(&self) -> Option<Connector> {
        self.parts.connector.clone()
    }

    /// The guest kernel's log.
    pub fn console(&self) -> Console {
        self.parts.console.clone()
    }

    /// Holds all vCPUs and devices; nothing touches guest memory afterwards.
    pub fn pause(&self) -> Result<(), Error> {
        let mut paused = lock(&self.paused);
        if *paused {
            return Ok(());
        }
        self.parts.control.pause();
        if self.parts.control.ended() {
            return Err(Error::Ended);
        }
        self.parts.events.pause();
        for transport in &self.parts.bus.virtio {
            lock(transport).pause()?;
        }
        *paused = true;
        Ok(())
    }

    /// Lets a paused machine go on.
    pub fn resume(&self) -> Result<(), Error> {
        let mut paused = lock(&self.paused);
        if !*paused {
            return Ok(());
        }
        for transport in &self.parts.bus.virtio {
            lock(transport).resume()?;
        }
        self.parts.events.resume();
        if self.parts.control.has_run() {
            for vcpu in self.parts.control.vcpus() {
                // Tells the guest's watchdogs that time was lost; a guest that has not
                // set up its clock yet is no error.
                let _ = vcpu.fd().kvmclock_ctrl();
            }
        }
        self.parts.control.resume();
        *paused = false;
        Ok(())
    }

    pub(crate) fn is_paused(&self) -> bool {
        *lock(&self.paused)
    }

    /// Waits for the end. The outcome is given once; later it is `Stopped`.
    pub fn wait(&self) -> Outcome {
        self.parts.control.wait()
    }

    /// Readable once the machine has ended.
    pub fn exit_fd(&self) -> BorrowedFd<'_> {
        self.parts.control.exit_fd()
    }

    /// Ends the machine from the host's side.
    pub fn stop(&self) {
        self.parts.control.end(Outcome::Stopped);
    }

    /// Notes a phase of the owner's (as "agent's hello").
    pub fn note(&self, name: &'static str) {
        self.parts.control.phase(name);
    }

    /// Names and times of what has happened so far, in order.
    pub fn phases(&self) -> Vec<(&'static str, Instant)> {
        if let Some(at) = self.parts.console.first_byte() {
            self.parts.control.phase_at("first console byte", at);
        }
        self.parts.control.phases()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
        self.parts.events.stop();
        for thread in lock(&self.threads).drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
