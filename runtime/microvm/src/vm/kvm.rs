//! The machine as KVM has it, before anything runs: descriptor, interrupt
//! controllers, memory slots, processors.

use std::thread::JoinHandle;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use super::Error;
use crate::memory::{KVM_IDENTITY_BASE, KVM_TSS_BASE};
use crate::vcpu::cpuid::Host;

/// Interrupts of the virtio devices: what a PC leaves free of the first 16,
/// then the I/O APIC's own.
pub const VIRTIO_IRQS: [u32; 17] = [5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

const IA32_ARCH_CAPABILITIES: u32 = 0x10a;

pub(crate) fn kvm(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |source| Error::Kvm { operation, source }
}

/// Opens KVM.
pub fn open() -> Result<Kvm, Error> {
    Kvm::new().map_err(Error::OpenKvm)
}

/// A machine that is being made by a thread of its own: most of `KVM_CREATE_VM` is waiting for
/// other processors of the host, and a kernel can be read meanwhile.
#[derive(Debug)]
pub(crate) struct Opening(std::io::Result<JoinHandle<Result<(Kvm, VmFd), Error>>>);

impl Opening {
    /// Begins.
    pub fn start() -> Self {
        let make = || {
            crate::vcpu::signals::block_all();
            let kvm = open()?;
            let vm = create(&kvm)?;
            Ok((kvm, vm))
        };
        let thread = std::thread::Builder::new().name("hull-open".into()).stack_size(128 << 10);
        Opening(thread.spawn(make))
    }

    /// The machine.
    pub fn finish(self) -> Result<(Kvm, VmFd), Error> {
        let thread =
            self.0.map_err(|source| Error::System { operation: "thread hull-open", source })?;
        thread.join().unwrap_or(Err(Error::Ended))
    }
}

/// Makes the machine and its interrupt controllers.
pub fn create(kvm_fd: &Kvm) -> Result<VmFd, Error> {
    let vm = loop {
        match kvm_fd.create_vm() {
            // The ioctl is interruptible.
            Err(e) if e.errno() == libc::EINTR => {}
            other => break other.map_err(kvm("KVM_CREATE_VM"))?,
        }
    };
    vm.set_identity_map_address(KVM_IDENTITY_BASE).map_err(kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(KVM_TSS_BASE as usize).map_err(kvm("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(kvm("KVM_CREATE_IRQCHIP"))?;
    Ok(vm)
}

/// Gives the machine its memory.
pub fn set_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), Error> {
    for (slot, region) in memory.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a mapping that the memory object owns, and the machine
        // keeps that object as long as its descriptor.
        unsafe { vm.set_user_memory_region(region) }.map_err(kvm("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

/// What this host's processors can be told to be.
pub fn supported_cpuid(kvm_fd: &Kvm) -> Result<(CpuId, Host), Error> {
    let cpuid = kvm_fd
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm("KVM_GET_SUPPORTED_CPUID"))?;
    let host = Host {
        tsc_deadline: kvm_fd.check_extension(Cap::TscDeadlineTimer),
        arch_capabilities: has_msr_feature(kvm_fd, IA32_ARCH_CAPABILITIES),
    };
    Ok((cpuid, host))
}

/// Whether KVM itself can say what an MSR would hold.
fn has_msr_feature(kvm_fd: &Kvm, index: u32) -> bool {
    let entry = kvm_bindings::kvm_msr_entry { index, ..Default::default() };
    kvm_bindings::Msrs::from_entries(&[entry])
        .is_ok_and(|mut msrs| matches!(kvm_fd.get_msrs(&mut msrs), Ok(1)))
}
