//! Everything of a processor that a saved machine keeps.
//!
//! Order matters on the way back: CPUID before anything that depends on
//! features, SREGS (with the APIC base) before the LAPIC, the LAPIC before
//! the MSRs (the deadline is ignored while the timer is not in that mode),
//! events last.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::{VcpuError, ioctl};

/// The state of one processor.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    tsc_khz: Option<u32>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

/// MSRs of KVM's list that cannot be set, or that the rest of the state holds.
fn is_kept(msr: u32) -> bool {
    const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
    const IA32_PERF_CAPABILITIES: u32 = 0x345;
    // VMX capabilities and Hyper-V's synthetic registers are not offered here.
    !matches!(
        msr,
        IA32_ARCH_CAPABILITIES | IA32_PERF_CAPABILITIES | 0x480..=0x4ff | 0x4000_0000..=0x4000_01ff
    )
}

/// Reads the state of a parked processor.
pub fn save(fd: &VcpuFd, id: u8, msr_list: &[u32]) -> Result<VcpuState, VcpuError> {
    // Reading mp_state first makes KVM settle events it has not delivered yet.
    let mp_state = fd.get_mp_state().map_err(ioctl(id, "KVM_GET_MP_STATE"))?;
    let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(ioctl(id, "KVM_GET_CPUID2"))?;
    Ok(VcpuState {
        cpuid: cpuid.as_slice().to_vec(),
        tsc_khz: fd.get_tsc_khz().ok(),
        mp_state,
        regs: fd.get_regs().map_err(ioctl(id, "KVM_GET_REGS"))?,
        sregs: fd.get_sregs().map_err(ioctl(id, "KVM_GET_SREGS"))?,
        xsave: fd.get_xsave().map_err(ioctl(id, "KVM_GET_XSAVE"))?,
        xcrs: fd.get_xcrs().map_err(ioctl(id, "KVM_GET_XCRS"))?,
        debug_regs: fd.get_debug_regs().map_err(ioctl(id, "KVM_GET_DEBUGREGS"))?,
        lapic: fd.get_lapic().map_err(ioctl(id, "KVM_GET_LAPIC"))?,
        msrs: save_msrs(fd, id, msr_list)?,
        events: fd.get_vcpu_events().map_err(ioctl(id, "KVM_GET_VCPU_EVENTS"))?,
    })
}

/// Reads MSRs, passing over those of the list that this host refuses.
fn save_msrs(fd: &VcpuFd, id: u8, list: &[u32]) -> Result<Vec<kvm_msr_entry>, VcpuError> {
    let mut wanted: Vec<u32> = list.iter().copied().filter(|&msr| is_kept(msr)).collect();
    let mut saved = Vec::with_capacity(wanted.len());
    while !wanted.is_empty() {
        let entries: Vec<kvm_msr_entry> =
            wanted.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs =
            Msrs::from_entries(&entries).map_err(|_| VcpuError::TooMany { id, what: "MSRs" })?;
        let count = fd.get_msrs(&mut msrs).map_err(ioctl(id, "KVM_GET_MSRS"))?;
        saved.extend_from_slice(&msrs.as_slice()[..count]);
        // The one it stopped at cannot be read here.
        wanted.drain(..(count + 1).min(wanted.len()));
    }
    Ok(saved)
}

/// Makes a new processor what the saved one was.
pub fn restore(fd: &VcpuFd, id: u8, state: &VcpuState) -> Result<(), VcpuError> {
    let cpuid = CpuId::from_entries(&state.cpuid)
        .map_err(|_| VcpuError::TooMany { id, what: "CPUID entries" })?;
    fd.set_cpuid2(&cpuid).map_err(ioctl(id, "KVM_SET_CPUID2"))?;
    if let Some(khz) = state.tsc_khz
        && fd.get_tsc_khz().ok() != Some(khz)
    {
        fd.set_tsc_khz(khz).map_err(ioctl(id, "KVM_SET_TSC_KHZ"))?;
    }
    fd.set_mp_state(state.mp_state).map_err(ioctl(id, "KVM_SET_MP_STATE"))?;
    fd.set_regs(&state.regs).map_err(ioctl(id, "KVM_SET_REGS"))?;
    fd.set_sregs(&state.sregs).map_err(ioctl(id, "KVM_SET_SREGS"))?;
    // SAFETY: no feature beyond the classic 4 KiB area is ever enabled for a
    // guest of this machine (arch_prctl is not called), so KVM reads no further.
    unsafe { fd.set_xsave(&state.xsave) }.map_err(ioctl(id, "KVM_SET_XSAVE"))?;
    fd.set_xcrs(&state.xcrs).map_err(ioctl(id, "KVM_SET_XCRS"))?;
    fd.set_debug_regs(&state.debug_regs).map_err(ioctl(id, "KVM_SET_DEBUGREGS"))?;
    fd.set_lapic(&state.lapic).map_err(ioctl(id, "KVM_SET_LAPIC"))?;
    restore_msrs(fd, id, &state.msrs)?;
    fd.set_vcpu_events(&state.events).map_err(ioctl(id, "KVM_SET_VCPU_EVENTS"))
}

/// Sets MSRs. One that holds zero and cannot be set is passed over: KVM lists
/// registers that a guest without the feature may read but nobody may write.
fn restore_msrs(fd: &VcpuFd, id: u8, saved: &[kvm_msr_entry]) -> Result<(), VcpuError> {
    let mut left = saved;
    while !left.is_empty() {
        let msrs = Msrs::from_entries(left).map_err(|_| VcpuError::TooMany { id, what: "MSRs" })?;
        let done = fd.set_msrs(&msrs).map_err(ioctl(id, "KVM_SET_MSRS"))?;
        let Some(refused) = left.get(done) else {
            return Ok(());
        };
        if refused.data != 0 {
            return Err(VcpuError::Msr { id, operation: "KVM_SET_MSRS", msr: refused.index });
        }
        left = &left[done + 1..];
    }
    Ok(())
}
