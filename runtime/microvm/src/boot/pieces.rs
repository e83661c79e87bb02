//! Reading a kernel with two threads: the loading thread and, once it has made
//! the machine, the caller's. A piece is one huge page of guest memory, so that
//! no two threads wait for the same page to be cleared.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use vm_memory::GuestMemoryMmap;

use super::elf::{self, Plan};
use crate::devices::bus::lock;

const PIECE: u64 = 2 << 20;

/// One piece of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    offset: u64,
    address: u64,
    len: u64,
}

/// Work that any number of threads may take part in.
#[derive(Debug)]
pub struct Pieces {
    pieces: Vec<Piece>,
    next: AtomicUsize,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    done: usize,
    error: Option<io::Error>,
}

impl Pieces {
    /// Cuts the segments of a plan.
    pub fn of(plan: &Plan) -> Pieces {
        let mut pieces = Vec::new();
        for segment in &plan.segments {
            let mut done = 0;
            while done < segment.file_size {
                let address = segment.address + done;
                let to_border = PIECE - address % PIECE;
                let len = to_border.min(segment.file_size - done);
                pieces.push(Piece { offset: segment.offset + done, address, len });
                done += len;
            }
        }
        Pieces {
            pieces,
            next: AtomicUsize::new(0),
            progress: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Reads pieces until none is left to take.
    pub fn take_part(&self, file: &File, memory: &GuestMemoryMmap) {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let read = elf::read_exact(file, piece.offset, memory, piece.address, piece.len);
            let mut progress = lock(&self.progress);
            progress.done += 1;
            if let Err(error) = read {
                progress.error.get_or_insert(error);
            }
            if progress.done == self.pieces.len() {
                self.changed.notify_all();
            }
        }
    }

    /// Waits for the others' last pieces.
    pub fn finish(&self) -> io::Result<()> {
        let mut progress = lock(&self.progress);
        while progress.done < self.pieces.len() {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        progress.error.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::elf::Segment;

    fn plan() -> Plan {
        let segment = |offset, address, file_size| Segment {
            offset,
            address,
            file_size,
            mem_size: file_size,
        };
        Plan {
            segments: vec![
                segment(0x1000, 0x10_0000, 5 << 20),
                segment(0x60_0000, 0x70_0000, 100),
                segment(0, 0x80_0000, 0),
            ],
            entry: 0x10_0000,
            range: 0x10_0000..0x80_0000,
        }
    }

    #[test]
    fn pieces_cover_the_segments_and_end_at_huge_pages() {
        let pieces = Pieces::of(&plan()).pieces;
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces[0], Piece { offset: 0x1000, address: 0x10_0000, len: 1 << 20 });
        assert_eq!(pieces[1].address, 0x20_0000);
        assert_eq!(pieces.iter().map(|p| p.len).sum::<u64>(), (5 << 20) + 100);
    }

    #[test]
    fn an_error_of_any_piece_is_an_error() {
        let memory = crate::memory::map(crate::memory::MIN_MEMORY).unwrap();
        let pieces = Pieces::of(&plan());
        let file = File::open("/dev/null").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| pieces.take_part(&file, &memory));
            pieces.take_part(&file, &memory);
        });
        assert_eq!(pieces.finish().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
