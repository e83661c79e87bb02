//! The machine: built, started, watched, stopped.

pub(crate) mod build;
pub(crate) mod control;
mod handle;
pub mod kvm;

use std::io;

pub use build::Vm;
pub use handle::Handle;

use crate::boot::acpi;
use crate::boot::cmdline::CmdlineError;
use crate::boot::loading::LoadError;
use crate::devices::virtio::DeviceError;
use crate::vcpu::VcpuError;

/// What can go wrong with a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number of processors.
    #[error("{0} vCPUs: a machine has 1 to {max}", max = crate::config::MAX_VCPUS)]
    Vcpus(u8),
    /// More devices than there are interrupts.
    #[error("{0} virtio devices: a machine has at most {max}", max = kvm::VIRTIO_IRQS.len())]
    TooManyDevices(usize),
    /// KVM is not there or not ours.
    #[error("/dev/kvm: cannot be opened: {0}")]
    OpenKvm(kvm_ioctls::Error),
    /// An ioctl on KVM or the machine failed.
    #[error("/dev/kvm: {operation}: {source}")]
    Kvm {
        /// The ioctl.
        operation: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// Memory, kernel or initramfs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The command line.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The ACPI tables.
    #[error(transparent)]
    Acpi(#[from] acpi::TooLarge),
    /// Boot structures could not be written to guest memory.
    #[error("boot: write {what}: {source}")]
    Write {
        /// Which.
        what: &'static str,
        /// Why.
        source: vm_memory::GuestMemoryError,
    },
    /// A processor.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A thread could not confine itself.
    #[error(transparent)]
    Jail(#[from] crate::jail::Error),
    /// A system call of the machine's own.
    #[error("{operation}: {source}")]
    System {
        /// Which.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Saving or restoring.
    #[error(transparent)]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
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
