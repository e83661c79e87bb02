//! Guest memory: plain private host memory, touched only when used.
//!
//! The map is that of a PC without firmware: low memory from 0, a hole below
//! 4 GiB for the interrupt controllers and the virtio devices, and what does
//! not fit below the hole from 4 GiB on.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// Guest memory as the devices see it; cheap to clone.
pub type Memory = Arc<GuestMemoryMmap>;

/// Where the hole for devices begins.
pub const HOLE_START: u64 = 0xc000_0000;
/// Where memory goes on above the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// First of the virtio-mmio register blocks.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Distance between two register blocks.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// The local interrupt controller's registers.
pub const LAPIC_BASE: u32 = 0xfee0_0000;
/// The I/O interrupt controller's registers.
pub const IOAPIC_BASE: u32 = 0xfec0_0000;
/// Three pages KVM needs on Intel processors, and one more below them for
/// the identity map.
pub const KVM_TSS_BASE: u64 = 0xfffb_d000;
/// See [`KVM_TSS_BASE`].
pub const KVM_IDENTITY_BASE: u64 = 0xfffb_c000;

/// The least memory a machine may have; a kernel hardly fits into less.
pub const MIN_MEMORY: u64 = 32 << 20;
/// The most: 40 bits of physical address are had everywhere, less the hole.
pub const MAX_MEMORY: u64 = (1 << 40) - (HOLE_END - HOLE_START);

/// Guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Outside of what a machine can have.
    #[error("guest memory of {0} bytes: must be between 32 MiB and 1 TiB, in whole pages")]
    Size(u64),
    /// The host refused the mapping.
    #[error("guest memory of {size} bytes: mmap: {source}")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// Why it failed.
        source: MmapRegionError,
    },
    /// A region does not fit into the address space.
    #[error("guest memory of {0} bytes: does not fit the address space")]
    Layout(u64),
    /// Advice about huge pages or copies failed hard.
    #[error("guest memory: {operation}: {source}")]
    Advice {
        /// The call.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// The address ranges that `size` bytes of memory take.
pub fn ranges(size: u64) -> Result<Vec<Range<u64>>, MemoryError> {
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) || !size.is_multiple_of(4096) {
        return Err(MemoryError::Size(size));
    }
    if size <= HOLE_START {
        return Ok(std::iter::once(0..size).collect());
    }
    Ok(vec![0..HOLE_START, HOLE_END..HOLE_END + (size - HOLE_START)])
}

/// Maps `size` bytes of new, untouched memory.
pub fn map(size: u64) -> Result<Memory, MemoryError> {
    build(size, None)
}

/// Maps a saved memory; what the guest writes stays private to this machine.
pub fn map_saved(size: u64, file: File) -> Result<Memory, MemoryError> {
    build(size, Some(Arc::new(file)))
}

fn build(size: u64, file: Option<Arc<File>>) -> Result<Memory, MemoryError> {
    let mut offset = 0;
    let mut regions = Vec::with_capacity(2);
    for range in ranges(size)? {
        let len = range.end - range.start;
        let mut builder =
            MmapRegionBuilder::new(len as usize).with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
        builder = match &file {
            None => builder
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE),
            Some(file) => builder
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
                .with_file_offset(FileOffset::from_arc(Arc::clone(file), offset)),
        };
        offset += len;
        let region = builder.build().map_err(|source| MemoryError::Map { size, source })?;
        regions.push(Arc::new(
            GuestRegionMmap::new(region, GuestAddress(range.start))
                .ok_or(MemoryError::Layout(size))?,
        ));
    }
    GuestMemoryMmap::from_arc_regions(regions).map(Arc::new).map_err(|_| MemoryError::Layout(size))
}

/// Asks for huge pages: what is filled at once (kernel, page descriptors, the
/// initramfs) then costs one fault for each 2 MiB, on the host and in what
/// KVM keeps about the guest. A boot takes half the processor time; the price
/// is that a machine's touched memory is rounded up.
pub fn prefer_huge_pages(memory: &Memory) {
    for region in memory.iter() {
        // SAFETY: the range is the region's own mapping, and MADV_HUGEPAGE changes
        // how it is backed, not what it holds. A refusal is harmless.
        unsafe {
            libc::madvise(region.as_ptr().cast(), region.len() as usize, libc::MADV_HUGEPAGE)
        };
    }
}

/// Bytes of guest memory.
pub fn size(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().map(|region| region.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn small_memory_is_one_range() {
        let ranges = ranges(512 << 20).unwrap();
        assert_eq!((ranges.len(), &ranges[0]), (1, &(0..512 << 20)));
    }

    #[test]
    fn large_memory_goes_on_above_the_hole() {
        assert_eq!(ranges(4 << 30).unwrap(), vec![0..HOLE_START, HOLE_END..HOLE_END + (1 << 30)]);
    }

    #[test]
    fn sizes_that_make_no_machine_are_refused() {
        for size in [0, 1 << 20, (512 << 20) + 1, 1 << 41, u64::MAX] {
            assert!(matches!(ranges(size), Err(MemoryError::Size(s)) if s == size));
        }
    }

    #[test]
    fn new_memory_reads_as_zero() {
        let memory = map(MIN_MEMORY).unwrap();
        prefer_huge_pages(&memory);
        let value: u64 = memory.read_obj(GuestAddress(0x10_0000)).unwrap();
        assert_eq!(value, 0);
        assert_eq!(size(&memory), MIN_MEMORY);
    }
}
