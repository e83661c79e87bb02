//! Virtio 1.2 devices over MMIO. `device` is what a device promises, `queue`
//! what it is handed when the driver has set it up; each device has a folder.

pub mod device;
pub mod fs;
pub mod mmio;
pub mod queue;
pub mod rng;
pub mod vsock;

pub use device::{Activation, Device, DeviceError};
pub use queue::{ActiveQueue, Irq, Line};
