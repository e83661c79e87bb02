//! A microVM on KVM: memory, vCPUs, boot, devices, jail.
//!
//! It knows nothing of OCI: it is given a kernel, parts of an initramfs, a size
//! and devices, and gives back a handle on a running machine. What comes to
//! life in which order: [`boot::loading`] (memory and kernel, beside everything
//! else), [`vm`], [`vcpu`], [`devices`]; [`jail`] confines their threads, and
//! [`snapshot`] keeps and brings back a whole machine.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("only x86-64 machines are known");

pub mod boot;
pub mod config;
pub mod devices;
pub mod jail;
pub mod memory;
pub mod snapshot;
pub mod vcpu;
pub mod vm;

pub use boot::loading::Loading;
pub use config::{Announce, Config, Devices, InitrdPart};
pub use devices::serial::Console;
pub use devices::virtio::vsock::{Connector, Listener};
pub use vm::{Error, Handle, Outcome, Vm};
