//! The table of what the guest has open.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// An open file or directory.
#[derive(Debug)]
pub struct Handle {
    /// Node id of what is open.
    pub inode: u64,
    /// Whether it is a directory.
    pub dir: bool,
    /// What it was opened with.
    flags: i32,
    fd: OwnedFd,
}

impl Handle {
    /// The open description.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A handle in a form that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedHandle {
    /// Its number.
    pub number: u64,
    /// Node id of what is open.
    pub inode: u64,
    /// Whether it is a directory.
    pub dir: bool,
    /// What it was opened with.
    pub flags: i32,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Handle>>,
    next: u64,
}

/// All open handles.
#[derive(Debug)]
pub struct Handles {
    table: Mutex<Table>,
    limit: usize,
}

impl Handles {
    /// None yet, and never more than `limit`.
    pub fn new(limit: usize) -> Handles {
        Handles { table: Mutex::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new handle's number; numbers are never used twice.
    pub fn add(&self, inode: u64, dir: bool, flags: i32, fd: OwnedFd) -> io::Result<u64> {
        let mut table = self.lock();
        if table.open.len() >= self.limit {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        table.next += 1;
        let number = table.next;
        table.open.insert(number, Arc::new(Handle { inode, dir, flags, fd }));
        Ok(number)
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
        let gone = std::mem::take(&mut self.lock().open);
        drop(gone);
    }

    /// How many are open.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// All of them, and the last number given.
    pub fn save(&self) -> (Vec<SavedHandle>, u64) {
        let table = self.lock();
        let mut list: Vec<SavedHandle> = table
            .open
            .iter()
            .map(|(number, h)| SavedHandle {
                number: *number,
                inode: h.inode,
                dir: h.dir,
                flags: h.flags,
            })
            .collect();
        list.sort_by_key(|saved| saved.number);
        (list, table.next)
    }

    /// Puts a saved handle back, opened anew.
    pub fn restore(&self, saved: &SavedHandle, fd: OwnedFd) {
        let SavedHandle { number, inode, dir, flags } = *saved;
        self.lock().open.insert(number, Arc::new(Handle { inode, dir, flags, fd }));
    }

    /// Sets the last number given.
    pub fn set_last(&self, last: u64) {
        self.lock().next = last;
    }
}
