//! How the first processor enters the kernel: in 64-bit mode, with flat
//! segments, an identity map, and the zero page in RSI
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! What KVM's reset state already is (FPU, LINT0 as ExtINT on the first
//! processor) is not set again: each ioctl is on the way to the first entry.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{VcpuError, ioctl};
use crate::boot::layout;

/// Selectors of the boot protocol.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;

/// Writes descriptor tables and page tables, which the registers point to.
pub fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let gdt: [u64; 5] = [
        0,
        0,
        // Code: base 0, limit 4 GiB, long mode.
        0x00af_9b00_0000_ffff,
        // Data.
        0x00cf_9300_0000_ffff,
        // Task: present, busy.
        0x0080_8b00_0000_ffff,
    ];
    for (index, entry) in gdt.iter().enumerate() {
        memory.write_obj(*entry, GuestAddress(layout::GDT + 8 * index as u64))?;
    }
    memory.write_obj(0_u64, GuestAddress(layout::IDT))?;

    // Present, writable; the last level is one of 2 MiB pages.
    let pdpt = layout::PAGE_TABLES + 0x1000;
    let directory = layout::PAGE_TABLES + 0x2000;
    memory.write_obj(pdpt | 3, GuestAddress(layout::PAGE_TABLES))?;
    memory.write_obj(directory | 3, GuestAddress(pdpt))?;
    let mut pages = [0_u8; 4096];
    for (index, entry) in pages.chunks_exact_mut(8).enumerate() {
        entry.copy_from_slice(&((index as u64) << 21 | 0x83).to_le_bytes());
    }
    memory.write_slice(&pages, GuestAddress(directory))
}

fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

fn set_sregs(sregs: &mut kvm_sregs) {
    sregs.cs = kvm_segment { db: 0, l: 1, ..segment(CODE, 0xb) };
    let data = segment(DATA, 0x3);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = kvm_segment { s: 0, g: 0, db: 0, limit: 0xffff, ..segment(TASK, 0xb) };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

/// Sets the registers of the first processor to enter at `entry`.
pub fn set_up_boot(fd: &VcpuFd, entry: u64) -> Result<(), VcpuError> {
    let mut sregs = fd.get_sregs().map_err(ioctl(0, "KVM_GET_SREGS"))?;
    set_sregs(&mut sregs);
    fd.set_sregs(&sregs).map_err(ioctl(0, "KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rflags: 2,
        rip: entry,
        rsp: layout::STACK,
        rbp: layout::STACK,
        rsi: layout::ZERO_PAGE,
        ..Default::default()
    };
    fd.set_regs(&regs).map_err(ioctl(0, "KVM_SET_REGS"))
}

/// Sets what every processor's firmware would have set: fast string
/// operations, and memory that is write-back where no MTRR says otherwise.
pub fn set_up_msrs(fd: &VcpuFd, id: u8) -> Result<(), VcpuError> {
    let entries = [(MSR_MISC_ENABLE, 1), (MSR_MTRR_DEF_TYPE, 1 << 11 | 6)]
        .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).map_err(|_| VcpuError::TooMany { id, what: "MSRs" })?;
    let done = fd.set_msrs(&msrs).map_err(ioctl(id, "KVM_SET_MSRS"))?;
    match entries.get(done) {
        None => Ok(()),
        Some(refused) => Err(VcpuError::Msr { id, operation: "KVM_SET_MSRS", msr: refused.index }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gibibyte_is_mapped_to_itself() {
        let memory = crate::memory::map(crate::memory::MIN_MEMORY).unwrap();
        write_tables(&memory).unwrap();
        let read = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        let pdpt = read(layout::PAGE_TABLES) & !0xfff;
        let directory = read(pdpt) & !0xfff;
        assert_eq!(read(directory + 8 * 8), 0x100_0083);
        assert_eq!(read(directory + 8 * 511), 511 << 21 | 0x83);
    }

    #[test]
    fn the_code_segment_is_long() {
        let mut sregs = kvm_sregs::default();
        set_sregs(&mut sregs);
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.selector), (1, 0, 0x10));
        assert_eq!(sregs.efer & EFER_LMA, EFER_LMA);
    }
}
