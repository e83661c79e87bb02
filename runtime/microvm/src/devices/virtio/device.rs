//! What the transport asks of a virtio device.

use std::fmt::Debug;

use super::queue::ActiveQueue;
use crate::jail::Jail;
use crate::memory::Memory;

/// Everything the driver settled before it set DRIVER_OK.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub mem: Memory,
    /// One per entry of [`Device::queue_sizes`], in order. A queue the driver
    /// left unused is there but not `ready()`.
    pub queues: Vec<ActiveQueue>,
    /// The features both sides agreed on.
    pub features: u64,
}

/// A device failed the host, not the guest: what the guest does wrong is
/// answered in the device's own protocol.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A system call of the device's failed.
    #[error("{device}: {operation}: {source}")]
    System {
        /// Which device.
        device: &'static str,
        /// What it tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A saved state does not fit this device.
    #[error("{device}: saved state: {source}")]
    State {
        /// Which device.
        device: &'static str,
        /// What does not fit.
        source: serde_json::Error,
    },
    /// A saved state is well formed but means nothing here.
    #[error("{device}: saved state: bad {field}")]
    StateField {
        /// Which device.
        device: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A thread of the device could not confine itself.
    #[error("{device}: {source}")]
    Jail {
        /// Which device.
        device: &'static str,
        /// Why.
        source: crate::jail::Error,
    },
}

/// A virtio device behind a transport. All methods are called with the
/// transport's lock held, from vCPU threads or the machine's owner, never
/// from the device's own threads.
pub trait Device: Send + Debug {
    /// Device type (virtio 1.2, chapter 5).
    fn device_type(&self) -> u32;

    /// A short name for messages, as `virtio-fs`.
    fn name(&self) -> &'static str;

    /// Features offered. The transport adds VIRTIO_F_VERSION_1 itself.
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two each.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space; what is outside of it reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space; what cannot be written is ignored.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Called once, before any vCPU runs and before the calling thread is
    /// confined: a device with threads of its own makes them here (they
    /// begin with `jail.enter(...)`) and lets them wait for `activate`. A
    /// thread made later would inherit the list of a vCPU's thread.
    fn start(&mut self, _jail: &Jail) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The driver is ready: begin to serve the queues. Must return at once.
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError>;

    /// The driver reset the device: let go of queues and memory. When this
    /// returns, nothing of the device touches guest memory any more, and
    /// `activate` may be called again.
    fn reset(&mut self);

    /// Finish or hold what is under way; when this returns, nothing of the
    /// device touches guest memory or its queues until `resume`. Requests
    /// that were taken from a queue must have been answered.
    fn pause(&mut self) -> Result<(), DeviceError>;

    /// Goes on after `pause`; looks at all queues once, as kicks may be lost.
    fn resume(&mut self) -> Result<(), DeviceError>;

    /// The device's own state (not the queues': the transport keeps those).
    /// Called while paused.
    fn save(&self) -> Result<serde_json::Value, DeviceError>;

    /// The opposite of `save`. Called on a new device after `start`, and before
    /// `activate` if the saved device was active. The machine is paused:
    /// an `activate` that follows must not touch guest memory until `resume`.
    fn restore(&mut self, state: &serde_json::Value) -> Result<(), DeviceError>;
}
