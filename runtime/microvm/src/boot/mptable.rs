//! The MP table (Intel MultiProcessor Specification 1.4, chapter 4): which
//! processors and interrupt controllers there are, for kernels without ACPI.

use crate::memory::{IOAPIC_BASE, LAPIC_BASE};

/// Interrupt pins of KVM's I/O APIC.
const PINS: u8 = 24;
const APIC_VERSION: u8 = 0x14;

/// Builds floating pointer, header and entries, to be put at `address`.
pub fn build(address: u64, vcpus: u8) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0_u16;
    let ioapic_id = vcpus;

    for id in 0..vcpus {
        // Usable, and the first is the boot processor.
        let flags = 1 | if id == 0 { 2 } else { 0 };
        entries.extend([0, id, APIC_VERSION, flags]);
        // Signature and feature flags; kernels ask CPUID instead.
        entries.extend(0x600_u32.to_le_bytes());
        entries.extend(0x201_u32.to_le_bytes());
        entries.extend([0; 8]);
        count += 1;
    }
    entries.extend([1, 0]);
    entries.extend(b"ISA   ");
    count += 1;
    entries.extend([2, ioapic_id, APIC_VERSION, 1]);
    entries.extend(IOAPIC_BASE.to_le_bytes());
    count += 1;
    for pin in 0..PINS {
        // Vectored, polarity and trigger as the bus has them (ISA: edge).
        entries.extend([3, 0, 0, 0, 0, pin, ioapic_id, pin]);
        count += 1;
    }
    // Local interrupts: LINT0 as the old controller's (ExtINT), LINT1 as NMI.
    entries.extend([4, 3, 0, 0, 0, 0, 0, 0]);
    entries.extend([4, 1, 0, 0, 0, 0, 0xff, 1]);
    count += 2;

    let header_at = address + 16;
    let mut header = Vec::with_capacity(44);
    header.extend(b"PCMP");
    header.extend((44 + entries.len() as u16).to_le_bytes());
    header.extend([4, 0]);
    header.extend(b"HULL    ");
    header.extend(b"MICROVM     ");
    header.extend([0; 6]);
    header.extend(count.to_le_bytes());
    header.extend(LAPIC_BASE.to_le_bytes());
    header.extend([0; 4]);
    header[7] = checksum(header.iter().chain(&entries));

    let mut table = Vec::with_capacity(16 + header.len() + entries.len());
    table.extend(b"_MP_");
    table.extend((header_at as u32).to_le_bytes());
    table.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    table[10] = checksum(table.iter());
    table.extend(header);
    table.extend(entries);
    table
}

/// The byte that makes the sum of all zero.
pub(super) fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u8 {
    bytes.fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::layout;

    #[test]
    fn both_structures_sum_to_zero() {
        for vcpus in [1, 2, 32] {
            let table = build(layout::MPTABLE, vcpus);
            assert_eq!(checksum(table[..16].iter()), 0);
            assert_eq!(checksum(table[16..].iter()), 0);
            let length = u16::from_le_bytes([table[20], table[21]]) as usize;
            assert_eq!(table.len(), 16 + length);
        }
    }

    #[test]
    fn the_largest_table_fits_where_kernels_look() {
        let table = build(layout::MPTABLE, crate::config::MAX_VCPUS);
        assert!(layout::MPTABLE + (table.len() as u64) < 0xa_0000);
    }
}
