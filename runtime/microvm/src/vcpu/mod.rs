//! Virtual processors: what they are told they are (`cpuid`), how the first
//! one enters the kernel (`regs`), the thread each runs in (`run`), and what
//! of them is saved (`state`).

pub mod cpuid;
pub mod regs;
pub mod run;
pub mod signals;
pub mod state;

/// What can go wrong with one virtual processor.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// An ioctl failed.
    #[error("vCPU {id}: {operation}: {source}")]
    Ioctl {
        /// Which processor.
        id: u8,
        /// The ioctl.
        operation: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// The processor could not enter the guest.
    #[error("vCPU {id}: entry failed, hardware reason {reason:#x}")]
    FailEntry {
        /// Which processor.
        id: u8,
        /// What the hardware says.
        reason: u64,
    },
    /// KVM gave up (an instruction it cannot emulate, for instance).
    #[error("vCPU {id}: KVM internal error {suberror} at rip {rip:#x}, cr2 {cr2:#x}")]
    Internal {
        /// Which processor.
        id: u8,
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// Where the guest was.
        rip: u64,
        /// The last fault's address.
        cr2: u64,
    },
    /// KVM exited with something this machine never asks for.
    #[error("vCPU {id}: unexpected exit: {exit}")]
    UnexpectedExit {
        /// Which processor.
        id: u8,
        /// The exit, as KVM names it.
        exit: String,
    },
    /// KVM does not know all registers that were saved.
    #[error("vCPU {id}: {operation}: stopped at MSR {msr:#x}")]
    Msr {
        /// Which processor.
        id: u8,
        /// Get or set.
        operation: &'static str,
        /// The first it refused.
        msr: u32,
    },
    /// A list is longer than KVM takes.
    #[error("vCPU {id}: too many {what}")]
    TooMany {
        /// Which processor.
        id: u8,
        /// Of what.
        what: &'static str,
    },
}

pub(crate) fn ioctl(
    id: u8,
    operation: &'static str,
) -> impl FnOnce(kvm_ioctls::Error) -> VcpuError {
    move |source| VcpuError::Ioctl { id, operation, source }
}
