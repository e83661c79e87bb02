//! A microVM on KVM: memory, vCPUs, boot, devices, jail.
//!
//! It knows nothing of OCI: it is given a kernel, parts of an initramfs, a size
//! and devices, and gives back a handle on a running machine. The order in
//! which a machine comes to life is the order of the modules: [`config`],
//! [`loading`] (memory and kernel, beside everything else), [`vm`], [`devices`],
//! [`jail`].

pub mod config;
pub mod devices;
pub mod jail;
pub mod loading;
pub mod memory;
pub mod vm;

pub use config::{Announce, Config, Devices, InitrdPart};
pub use devices::virtio::vsock::{Connector, Listener};
pub use loading::Loading;
pub use vm::{Console, Error, Handle, Outcome, Vm};
