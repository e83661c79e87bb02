//! What the guest's CPUID instruction says: what KVM supports, with the
//! topology of this machine instead of the host's.
//!
//! Source: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E;
//! Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1, ECX: x2APIC.
const X2APIC: u32 = 1 << 21;
/// Leaf 1, ECX: the local APIC's timer can be set by a deadline.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 7, EDX: IA32_ARCH_CAPABILITIES exists.
const ARCH_CAPABILITIES: u32 = 1 << 29;

/// What the host's KVM can do beyond its list.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// KVM_CAP_TSC_DEADLINE_TIMER.
    pub tsc_deadline: bool,
    /// KVM can read IA32_ARCH_CAPABILITIES for a guest.
    pub arch_capabilities: bool,
}

/// The entries for processor `id` of `count`.
pub fn for_vcpu(supported: &CpuId, host: Host, id: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    // Bits of the APIC ids that number a core in the package.
    let core_bits = u32::from(count).next_power_of_two().trailing_zeros();
    let id = u32::from(id);
    let count = u32::from(count);
    for entry in cpuid.as_mut_slice() {
        adjust(entry, host, id, count, core_bits);
    }
    cpuid
}

fn adjust(e: &mut kvm_cpuid_entry2, host: Host, id: u32, count: u32, core_bits: u32) {
    match (e.function, e.index) {
        (1, _) => {
            e.ecx |= HYPERVISOR | X2APIC;
            if host.tsc_deadline {
                e.ecx |= TSC_DEADLINE;
            }
            // Initial APIC id, logical processors per package.
            e.ebx = e.ebx & 0x0000_ffff | id << 24 | (1 << core_bits) << 16;
            if count > 1 {
                e.edx |= HTT;
            } else {
                e.edx &= !HTT;
            }
        }
        (4, _) if e.eax & 0x1f != 0 => {
            // Cores in the package; a cache of level 3 is shared by all, the others
            // belong to one.
            let sharing = if e.eax >> 5 & 7 >= 3 { (1 << core_bits) - 1 } else { 0 };
            e.eax = e.eax & 0x3fff | sharing << 14 | ((1 << core_bits) - 1) << 26;
        }
        (7, 0) if !host.arch_capabilities => e.edx &= !ARCH_CAPABILITIES,
        (0xb | 0x1f, index) => {
            e.edx = id;
            (e.eax, e.ebx, e.ecx) = match index {
                // One thread for each core.
                0 => (0, 1, 0x100),
                1 => (core_bits, count, 0x201),
                _ => (0, 0, index),
            };
        }
        // AMD: cores in the package, and bits of the APIC id.
        (0x8000_0008, _) => {
            e.ecx = e.ecx & !0xf0ff | core_bits << 12 | (count - 1);
        }
        // AMD caches, as leaf 4.
        (0x8000_001d, _) if e.eax & 0x1f != 0 => {
            let sharing = if e.eax >> 5 & 7 >= 3 { count - 1 } else { 0 };
            e.eax = e.eax & 0x3fff | sharing << 14;
        }
        // AMD: extended APIC id, one thread per core, one node.
        (0x8000_001e, _) => {
            e.eax = id;
            e.ebx = e.ebx & !0xffff | id & 0xff;
            e.ecx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: 0xffff_ffff,
            ebx: 0xffff_ffff,
            ecx: 0,
            edx: 0xffff_ffff,
            ..Default::default()
        }
    }

    fn made(e: kvm_cpuid_entry2, host: Host, id: u8, count: u8) -> kvm_cpuid_entry2 {
        let supported = CpuId::from_entries(&[e]).unwrap();
        for_vcpu(&supported, host, id, count).as_slice()[0]
    }

    const HOST: Host = Host { tsc_deadline: true, arch_capabilities: false };

    #[test]
    fn each_processor_has_its_own_apic_id() {
        let e = made(entry(1, 0), HOST, 3, 4);
        assert_eq!(e.ebx >> 24, 3);
        assert_eq!(e.ebx >> 16 & 0xff, 4);
        assert_eq!(e.ecx & (HYPERVISOR | TSC_DEADLINE), HYPERVISOR | TSC_DEADLINE);
        assert_ne!(e.edx & HTT, 0);
        assert_eq!(made(entry(1, 0), HOST, 0, 1).edx & HTT, 0);
    }

    #[test]
    fn arch_capabilities_are_there_only_when_backed() {
        assert_eq!(made(entry(7, 0), HOST, 0, 1).edx & ARCH_CAPABILITIES, 0);
        let backed = Host { arch_capabilities: true, ..HOST };
        assert_ne!(made(entry(7, 0), backed, 0, 1).edx & ARCH_CAPABILITIES, 0);
    }

    #[test]
    fn the_topology_is_one_package_of_cores() {
        let threads = made(entry(0xb, 0), HOST, 2, 3);
        assert_eq!((threads.eax, threads.ebx, threads.edx), (0, 1, 2));
        let cores = made(entry(0xb, 1), HOST, 2, 3);
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (2, 3, 0x201));
        let end = made(entry(0xb, 2), HOST, 2, 3);
        assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
    }
}
