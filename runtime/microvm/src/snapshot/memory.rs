//! Guest memory in a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use super::SnapshotError;

/// Granularity of holes.
const PAGE: usize = 4096;
/// Written at once at most.
const RUN: usize = 1 << 20;

/// Writes all of memory, leaving out pages of zeros. The file must be empty,
/// nothing may write to memory meanwhile.
pub fn save(memory: &GuestMemoryMmap, file: &File) -> Result<(), SnapshotError> {
    let fail = |operation| move |source| SnapshotError::Memory { operation, source };
    file.set_len(crate::memory::size(memory)).map_err(fail("ftruncate"))?;
    let mut offset = 0;
    for region in memory.iter() {
        // SAFETY: the region is mapped for its whole length, and the machine is
        // paused: neither processors nor devices change what this reads.
        let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), region.len() as usize) };
        save_region(bytes, file, offset).map_err(fail("pwrite"))?;
        offset += region.len();
    }
    Ok(())
}

fn save_region(bytes: &[u8], file: &File, offset: u64) -> io::Result<()> {
    let zero = [0; PAGE];
    let mut run: Option<usize> = None;
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        let at = index * PAGE;
        let empty = page == &zero[..page.len()];
        if let Some(start) = run
            && (empty || at - start >= RUN)
        {
            file.write_all_at(&bytes[start..at], offset + start as u64)?;
            run = None;
        }
        if !empty && run.is_none() {
            run = Some(at);
        }
    }
    match run {
        Some(start) => file.write_all_at(&bytes[start..], offset + start as u64),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn zeros_take_no_room_and_everything_comes_back() {
        let memory = crate::memory::map(crate::memory::MIN_MEMORY).unwrap();
        let end = crate::memory::MIN_MEMORY - 3;
        memory.write_slice(b"first", GuestAddress(0x5000)).unwrap();
        memory.write_slice(&vec![7; 3 << 20], GuestAddress(0x10_0001)).unwrap();
        memory.write_slice(b"end", GuestAddress(end)).unwrap();
        let file = tempfile();
        save(&memory, &file).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), crate::memory::MIN_MEMORY);
        assert!(meta.blocks() * 512 < 4 << 20);

        let back = crate::memory::map_saved(crate::memory::MIN_MEMORY, file).unwrap();
        let mut text = [0; 5];
        back.read_slice(&mut text, GuestAddress(0x5000)).unwrap();
        assert_eq!(&text, b"first");
        back.read_slice(&mut text[..3], GuestAddress(end)).unwrap();
        assert_eq!(&text[..3], b"end");
        let mut run = vec![0; (3 << 20) + 2];
        back.read_slice(&mut run, GuestAddress(0x10_0000)).unwrap();
        assert!(run[1..run.len() - 1].iter().all(|b| *b == 7));
        assert_eq!((run[0], run[run.len() - 1]), (0, 0));
    }

    fn tempfile() -> File {
        // SAFETY: a NUL-terminated name; the descriptor is new.
        unsafe {
            let fd = libc::memfd_create(c"memory".as_ptr(), 0);
            <File as std::os::fd::FromRawFd>::from_raw_fd(fd)
        }
    }
}
