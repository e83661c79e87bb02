//! Reads an uncompressed kernel (`vmlinux`): an ELF64 executable for x86-64
//! whose PT_LOAD segments name physical addresses.
//!
//! The plan is computed from the headers alone; `pieces` carries it out by
//! reading the segments straight into guest memory. Source: ELF-64 Object
//! File Format 1.5; Documentation/arch/x86/boot.rst for the entry point.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

use super::layout;

const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;
const PT_LOAD: u32 = 1;
/// A kernel has five or so; more than this is no kernel.
const MAX_SEGMENTS: u16 = 64;

/// Why a file is not a kernel this machine can boot.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// Shorter than a header, or cut off.
    #[error("is no kernel: too short for an ELF file")]
    TooShort,
    /// A compressed kernel image.
    #[error("is a bzImage (vmlinuz): an uncompressed kernel (vmlinux) is needed here")]
    BzImage,
    /// Something else.
    #[error("is no kernel: not an ELF file")]
    NotElf,
    /// ELF for another machine.
    #[error("is no kernel for this machine: not a 64-bit little-endian x86-64 ELF file")]
    WrongMachine,
    /// A library, an object file, a core dump.
    #[error("is no kernel: an ELF file of type {0}, not an executable")]
    NotExecutable(u16),
    /// Program headers that make no sense.
    #[error("is no kernel: bad ELF program headers")]
    BadHeaders,
    /// An ordinary program, for instance.
    #[error("is no kernel: segment at physical address {0:#x}, kernels are loaded above 1 MiB")]
    TooLow(u64),
    /// No segments.
    #[error("is no kernel: nothing to load")]
    Empty,
    /// The file ends before a segment does.
    #[error("is cut off: segment at {0:#x} goes beyond the end of the file")]
    CutOff(u64),
    /// The entry point is not in a segment.
    #[error("is no kernel: entry point {0:#x} is not in any segment")]
    BadEntry(u64),
    /// The kernel does not fit into memory.
    #[error("needs memory up to {end:#x}, the machine has {memory:#x} bytes: too little memory")]
    TooLittleMemory {
        /// Where the kernel ends.
        end: u64,
        /// Where low memory ends.
        memory: u64,
    },
}

/// One piece of the file and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file.
    pub offset: u64,
    /// Where in guest memory.
    pub address: u64,
    /// Bytes in the file; what follows up to `mem_size` is zero.
    pub file_size: u64,
    /// Bytes in memory.
    pub mem_size: u64,
}

/// What is loaded where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Segments, as the file has them.
    pub segments: Vec<Segment>,
    /// The 64-bit entry point.
    pub entry: u64,
    /// Physical addresses from the lowest to the highest byte.
    pub range: Range<u64>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Plans the loading of a file whose first bytes are `head`. `file_size` is
/// the length of the whole file.
pub fn plan(head: &[u8], file_size: u64) -> Result<Plan, ElfError> {
    if head.len() < EHDR_SIZE {
        return Err(ElfError::TooShort);
    }
    if &head[..4] != b"\x7fELF" {
        return Err(if head.get(0x202..0x206) == Some(b"HdrS") {
            ElfError::BzImage
        } else {
            ElfError::NotElf
        });
    }
    // Class 64-bit, little-endian, EM_X86_64.
    if head[4] != 2 || head[5] != 1 || u16_at(head, 18) != 62 {
        return Err(ElfError::WrongMachine);
    }
    let kind = u16_at(head, 16);
    if kind != 2 {
        return Err(ElfError::NotExecutable(kind));
    }
    let entry = u64_at(head, 24);
    let table = usize::try_from(u64_at(head, 32)).map_err(|_| ElfError::BadHeaders)?;
    let count = u16_at(head, 56);
    if u16_at(head, 54) as usize != PHDR_SIZE || count > MAX_SEGMENTS {
        return Err(ElfError::BadHeaders);
    }
    let headers = table
        .checked_add(count as usize * PHDR_SIZE)
        .and_then(|end| head.get(table..end))
        .ok_or(ElfError::BadHeaders)?;

    let mut segments = Vec::new();
    let (mut lowest, mut highest) = (u64::MAX, 0);
    for header in headers.chunks_exact(PHDR_SIZE) {
        if u32_at(header, 0) != PT_LOAD {
            continue;
        }
        let segment = Segment {
            offset: u64_at(header, 8),
            address: u64_at(header, 24),
            file_size: u64_at(header, 32),
            mem_size: u64_at(header, 40),
        };
        if segment.mem_size == 0 {
            continue;
        }
        if segment.file_size > segment.mem_size {
            return Err(ElfError::BadHeaders);
        }
        if segment.address < layout::HIGH_MEMORY {
            return Err(ElfError::TooLow(segment.address));
        }
        let end = segment.address.checked_add(segment.mem_size).ok_or(ElfError::BadHeaders)?;
        if segment.offset.checked_add(segment.file_size).is_none_or(|end| end > file_size) {
            return Err(ElfError::CutOff(segment.address));
        }
        lowest = lowest.min(segment.address);
        highest = highest.max(end);
        segments.push(segment);
    }
    if segments.is_empty() {
        return Err(ElfError::Empty);
    }
    let inside = |s: &Segment| entry >= s.address && entry - s.address < s.file_size;
    if !segments.iter().any(inside) {
        return Err(ElfError::BadEntry(entry));
    }
    Ok(Plan { segments, entry, range: lowest..highest })
}

/// Reads the headers of `file` and plans its loading.
pub fn open(file: &File) -> Result<Plan, ElfError> {
    let mut head = [0; 4096];
    let size = file.metadata().map_err(ElfError::Read)?.len();
    let mut have = 0;
    while have < head.len() {
        match file.read_at(&mut head[have..], have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(ElfError::Read(e)),
        }
    }
    plan(&head[..have], size)
}

/// Whether the kernel fits below the hole of `memory`.
pub fn check_fit(plan: &Plan, memory: &GuestMemoryMmap) -> Result<(), ElfError> {
    let low = low_memory(memory);
    match plan.range.end <= low {
        true => Ok(()),
        false => Err(ElfError::TooLittleMemory { end: plan.range.end, memory: low }),
    }
}

/// Where the memory below the hole ends.
pub fn low_memory(memory: &GuestMemoryMmap) -> u64 {
    use vm_memory::GuestMemoryRegion;
    memory.find_region(GuestAddress(0)).map_or(0, |region| region.len())
}

/// Reads `len` bytes of a file at `offset` into guest memory at `address`.
pub fn read_exact(
    file: &File,
    offset: u64,
    memory: &GuestMemoryMmap,
    address: u64,
    len: u64,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let slice = memory.get_slice(GuestAddress(address), len as usize).map_err(io::Error::other)?;
    let target = slice.ptr_guard_mut();
    let mut done = 0;
    while done < len as usize {
        // SAFETY: the slice is `len` bytes of mapped guest memory that the guard keeps
        // mapped, done < len, and the kernel writes no more than len - done bytes
        // behind done. No reference to these bytes exists.
        let n = unsafe {
            libc::pread64(
                file.as_raw_fd(),
                target.as_ptr().add(done).cast(),
                len as usize - done,
                (offset + done as u64) as i64,
            )
        };
        match n {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n if n > 0 => done += n as usize,
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(segments: &[(u64, u64, u64, u64)], entry: u64) -> Vec<u8> {
        let mut b = vec![0; EHDR_SIZE];
        b[..6].copy_from_slice(b"\x7fELF\x02\x01");
        b[16] = 2;
        b[18] = 62;
        b[24..32].copy_from_slice(&entry.to_le_bytes());
        b[32] = 64;
        b[54] = PHDR_SIZE as u8;
        b[56] = segments.len() as u8;
        for (offset, address, file, mem) in segments {
            let mut p = vec![0; PHDR_SIZE];
            p[0] = 1;
            p[8..16].copy_from_slice(&offset.to_le_bytes());
            p[24..32].copy_from_slice(&address.to_le_bytes());
            p[32..40].copy_from_slice(&file.to_le_bytes());
            p[40..48].copy_from_slice(&mem.to_le_bytes());
            b.extend(p);
        }
        b
    }

    #[test]
    fn segments_and_range_are_taken_from_the_headers() {
        let head = header(
            &[(0x1000, 0x100_0000, 0x500, 0x500), (0x2000, 0x200_0000, 0x10, 0x9000)],
            0x100_0123,
        );
        let plan = plan(&head, 0x10000).unwrap();
        assert_eq!(plan.entry, 0x100_0123);
        assert_eq!(plan.range, 0x100_0000..0x200_9000);
        assert_eq!(plan.segments.len(), 2);
    }

    #[test]
    fn files_that_are_no_kernel_are_named_as_what_they_are() {
        assert!(matches!(plan(b"#!/bin/sh\n", 10), Err(ElfError::TooShort)));
        assert!(matches!(plan(&[0; 4096], 4096), Err(ElfError::NotElf)));
        let mut bz = vec![0; 4096];
        bz[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(matches!(plan(&bz, 4096), Err(ElfError::BzImage)));
        let mut arm = header(&[], 0);
        arm[18] = 183;
        assert!(matches!(plan(&arm, 4096), Err(ElfError::WrongMachine)));
        let mut lib = header(&[], 0);
        lib[16] = 3;
        assert!(matches!(plan(&lib, 4096), Err(ElfError::NotExecutable(3))));
        assert!(matches!(plan(&header(&[], 0), 4096), Err(ElfError::Empty)));
        assert!(matches!(
            plan(&header(&[(0, 0x40_0000 >> 4, 1, 1)], 0), 4096),
            Err(ElfError::TooLow(0x4_0000))
        ));
    }

    #[test]
    fn lying_headers_are_refused() {
        let big = u64::MAX - 0x1000;
        for (segment, entry) in [
            ((0, 0x100_0000, 2, 1), 0x100_0000),
            ((0, big, 1, 0x2000), big),
            ((big, 0x100_0000, 0x2000, 0x2000), 0x100_0000),
            ((0, 0x100_0000, 0x2000, 0x2000), 0x100_0000),
            ((0, 0x100_0000, 0x100, 0x100), 0x100_0100),
        ] {
            assert!(plan(&header(&[segment], entry), 0x1000).is_err());
        }
        let mut head = header(&[(0, 0x100_0000, 1, 1)], 0x100_0000);
        head[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(plan(&head, 4096), Err(ElfError::BadHeaders)));
    }

    #[test]
    fn a_kernel_larger_than_memory_is_too_little_memory() {
        let memory = crate::memory::map(32 << 20).unwrap();
        let plan = Plan { segments: vec![], entry: 0, range: 0x100_0000..0x300_0000 };
        assert!(matches!(check_fit(&plan, &memory), Err(ElfError::TooLittleMemory { .. })));
    }
}
