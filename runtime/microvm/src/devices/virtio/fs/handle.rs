//! The table of what the guest has open.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An open file or directory.
#[derive(Debug)]
pub struct Handle {
    /// Node id of what is open.
    pub inode: u64,
    /// Whether it is a directory.
    pub dir: bool,
    fd: OwnedFd,
}

impl Handle {
    /// The open description.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Handle>>,
    next: u64,
}

/// All open handles.
#[derive(Debug, Default)]
pub struct Handles {
    table: Mutex<Table>,
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new handle's number; numbers are never used twice.
    pub fn add(&self, inode: u64, dir: bool, fd: OwnedFd) -> u64 {
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        table.open.insert(number, Arc::new(Handle { inode, dir, fd }));
        number
    }

    /// The handle with this number, if it is open on this file and is a
    /// directory or not, as asked.
    pub fn get(&self, number: u64, inode: u64, dir: bool) -> io::Result<Arc<Handle>> {
        match self.lock().open.get(&number) {
            Some(h) if h.inode == inode && h.dir == dir => Ok(h.clone()),
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// Closes it.
    pub fn remove(&self, number: u64) -> io::Result<()> {
        let gone = self.lock().open.remove(&number);
        match gone {
            Some(_) => Ok(()),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// Closes all.
    pub fn clear(&self) {
        self.lock().open.clear();
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }
}
