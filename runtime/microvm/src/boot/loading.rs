//! Guest memory and kernel, made ready in a thread of their own while the
//! caller does everything else.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use super::elf::{self, ElfError};
use super::pieces::Pieces;
use crate::config::{Announce, Config, InitrdPart};
use crate::memory::{self, Memory, MemoryError};
use crate::vm::kvm::Opening;

/// Why kernel or initramfs are not in memory.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel is at fault.
    #[error("kernel {0}")]
    Kernel(#[from] ElfError),
    /// A part of the initramfs cannot be read.
    #[error("initramfs {path}: {source}")]
    Initrd {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Kernel and initramfs together are larger than memory.
    #[error(
        "initramfs of {size} bytes does not fit between the kernel's end {kernel_end:#x} and the memory's end {memory:#x}: too little memory"
    )]
    InitrdTooLarge {
        /// Of all parts.
        size: u64,
        /// Where the kernel ends.
        kernel_end: u64,
        /// Where low memory ends.
        memory: u64,
    },
    /// No thread could be made.
    #[error("kernel loading: thread: {0}")]
    Thread(io::Error),
    /// The loading thread is gone without a word.
    #[error("kernel loading: thread ended unexpectedly")]
    Lost,
}

/// What has been loaded.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub entry: u64,
    pub initrd: Range<u64>,
    /// Devices and processors are announced by ACPI.
    pub acpi: bool,
    /// When memory held everything.
    pub done: Instant,
}

/// A kernel on its way into guest memory, and a machine on its way.
#[derive(Debug)]
pub struct Loading {
    started: Instant,
    opening: Opening,
    state: Result<Running, LoadError>,
}

#[derive(Debug)]
struct Running {
    memory: Memory,
    thread: JoinHandle<Result<Loaded, LoadError>>,
    shared: Arc<Shared>,
}

/// What the loading thread and its helper share.
#[derive(Debug)]
struct Shared {
    kernel: File,
    pieces: OnceLock<Pieces>,
}

impl Loading {
    /// Begins: maps the memory and reads kernel and initramfs into it.
    /// What fails is told by `Vm::build`.
    pub fn start(kernel: File, initrd: Vec<InitrdPart>, config: &Config) -> Loading {
        let started = Instant::now();
        // A heap for each thread would be memory that nobody needs.
        // SAFETY: mallopt changes a number of the allocator's.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        let opening = Opening::start();
        let announce = config.announce;
        let state = memory::map(config.memory).map_err(LoadError::from).and_then(|memory| {
            let target = Memory::clone(&memory);
            let shared = Arc::new(Shared { kernel, pieces: OnceLock::new() });
            let theirs = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name("hull-load".into())
                .stack_size(128 << 10)
                .spawn(move || {
                    crate::vcpu::signals::block_all();
                    load(&theirs, &initrd, announce, &target)
                })
                .map_err(LoadError::Thread)?;
            Ok(Running { memory, thread, shared })
        });
        Loading { started, opening, state }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The machine that is being made, and the memory, which is still being filled.
    pub(crate) fn parts(self) -> Result<(Opening, Filling), LoadError> {
        Ok((self.opening, Filling(self.state?)))
    }
}

/// Memory that is being filled.
#[derive(Debug)]
pub(crate) struct Filling(Running);

impl Filling {
    /// The memory.
    pub(crate) fn memory(&self) -> Memory {
        self.0.memory.clone()
    }

    /// Helps, and waits for the end.
    pub(crate) fn finish(self) -> Result<Loaded, LoadError> {
        let Running { memory, thread, shared } = self.0;
        if let Some(pieces) = shared.pieces.get() {
            pieces.take_part(&shared.kernel, &memory);
        }
        thread.join().map_err(|_| LoadError::Lost)?
    }
}

fn load(
    shared: &Shared,
    initrd: &[InitrdPart],
    announce: Announce,
    memory: &Memory,
) -> Result<Loaded, LoadError> {
    let plan = elf::open(&shared.kernel)?;
    elf::check_fit(&plan, memory)?;
    memory::prefer_huge_pages(memory);
    let pieces = shared.pieces.get_or_init(|| Pieces::of(&plan));
    pieces.take_part(&shared.kernel, memory);
    pieces.finish().map_err(ElfError::Read)?;
    let initrd = load_initrd(initrd, plan.range.end, memory)?;
    let acpi = match announce {
        Announce::Acpi => true,
        Announce::CommandLine => false,
        Announce::Auto => !reads_devices_from_cmdline(&plan, memory),
    };
    Ok(Loaded { entry: plan.entry, initrd, acpi, done: Instant::now() })
}

/// Whether the kernel has virtio_mmio built in with its `device` parameter:
/// the parameter's name then stands in the image.
fn reads_devices_from_cmdline(plan: &elf::Plan, memory: &GuestMemoryMmap) -> bool {
    plan.segments.iter().any(|segment| stands_in(memory, segment, b"virtio_mmio.device\0"))
}

/// Searches a segment from its end: names of parameters are the last of the
/// read-only data.
fn stands_in(memory: &GuestMemoryMmap, segment: &elf::Segment, text: &[u8]) -> bool {
    const STEP: usize = 1 << 20;
    let Ok(slice) = memory.get_slice(GuestAddress(segment.address), segment.file_size as usize)
    else {
        return false;
    };
    let guard = slice.ptr_guard();
    // SAFETY: the slice is file_size bytes of mapped guest memory, kept by the
    // guard; all pieces have been read, no vCPU runs yet, and so nobody writes to it
    // but this thread.
    let bytes = unsafe { std::slice::from_raw_parts(guard.as_ptr(), slice.len()) };
    let finder = memchr::memmem::Finder::new(text);
    let mut end = bytes.len();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let until = (end + text.len()).min(bytes.len());
        if finder.find(&bytes[start..until]).is_some() {
            return true;
        }
        end = start;
    }
    false
}

/// Lays the parts one after the other at the end of low memory. Each begins
/// at a multiple of 4, as cpio headers must; the kernel skips zeros between.
fn load_initrd(
    parts: &[InitrdPart],
    kernel_end: u64,
    memory: &GuestMemoryMmap,
) -> Result<Range<u64>, LoadError> {
    let mut sizes = Vec::with_capacity(parts.len());
    for part in parts {
        sizes.push(match part {
            InitrdPart::Bytes(bytes) => bytes.len() as u64,
            InitrdPart::File(file, path) => file
                .metadata()
                .map_err(|source| LoadError::Initrd { path: path.clone(), source })?
                .len(),
        });
    }
    let memory_end = elf::low_memory(memory);
    let size: u64 =
        sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(size.saturating_add(3) & !3));
    if size == 0 {
        return Ok(0..0);
    }
    let start = memory_end
        .checked_sub(size)
        .map(|start| start & !0xfff)
        .filter(|&start| start >= kernel_end)
        .ok_or(LoadError::InitrdTooLarge { size, kernel_end, memory: memory_end })?;
    let mut at = start;
    for (part, size) in parts.iter().zip(sizes) {
        match part {
            InitrdPart::Bytes(bytes) => {
                memory.write_slice(bytes, GuestAddress(at)).map_err(|e| LoadError::Initrd {
                    path: PathBuf::from("(in memory)"),
                    source: io::Error::other(e),
                })?
            }
            InitrdPart::File(file, path) => {
                elf::read_exact(file, 0, memory, at, size)
                    .map_err(|source| LoadError::Initrd { path: path.clone(), source })?;
            }
        }
        at += (size + 3) & !3;
    }
    Ok(start..start + size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_one_another_aligned() {
        let memory = memory::map(memory::MIN_MEMORY).unwrap();
        let parts = [InitrdPart::Bytes(b"12345".to_vec()), InitrdPart::Bytes(b"abc".to_vec())];
        let range = load_initrd(&parts, 0, &memory).unwrap();
        let mut bytes = [0xff; 12];
        memory.read_slice(&mut bytes, GuestAddress(range.start)).unwrap();
        assert_eq!(&bytes, b"12345\0\0\0abc\0");
        assert_eq!(range.end - range.start, 12);
    }

    #[test]
    fn an_initramfs_that_runs_into_the_kernel_is_too_large() {
        let memory = memory::map(memory::MIN_MEMORY).unwrap();
        let parts = [InitrdPart::Bytes(vec![0; 0x2000])];
        let end = memory::MIN_MEMORY - 0x1000;
        assert!(matches!(load_initrd(&parts, end, &memory), Err(LoadError::InitrdTooLarge { .. })));
    }

    #[test]
    fn a_file_that_is_no_kernel_is_told_when_the_loading_ends() {
        let loading = Loading::start(File::open("/dev/null").unwrap(), vec![], &Config::default());
        assert!(matches!(
            loading.parts().unwrap().1.finish(),
            Err(LoadError::Kernel(ElfError::TooShort))
        ));
    }
}
