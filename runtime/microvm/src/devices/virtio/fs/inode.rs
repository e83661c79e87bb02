//! The table of files the guest knows: node ids to descriptors.
//!
//! An entry lives as long as the guest holds references, which it gets by
//! lookups and gives back by FORGET. Its `O_PATH` descriptor pins the inode
//! on the host, so that a number in the table always means the same file,
//! even when it has been renamed or deleted. Node ids are never used twice.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sys::Key;

/// Node id of the root (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// A file the guest knows.
#[derive(Debug)]
pub struct Inode {
    /// Its node id.
    pub id: u64,
    /// Which file it is.
    pub key: Key,
    /// `S_IF*` of it, which never changes.
    kind: u32,
    /// The modification time (ns) when it was last opened, to tell whether
    /// what the guest has cached is still the content.
    opened_mtime: AtomicI64,
    fd: OwnedFd,
}

impl Inode {
    /// Its `O_PATH` descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    /// Notes that it is being opened at this modification time; true if that
    /// is the one of the last opening.
    pub fn unchanged_since_opened(&self, mtime_ns: i64) -> bool {
        self.opened_mtime.swap(mtime_ns, Ordering::Relaxed) == mtime_ns
    }
}

#[derive(Debug)]
struct Entry {
    inode: Arc<Inode>,
    /// How many references the guest holds.
    refs: u64,
}

#[derive(Debug)]
struct Table {
    by_id: HashMap<u64, Entry>,
    by_key: HashMap<Key, u64>,
    next: u64,
}

/// All files the guest knows.
#[derive(Debug)]
pub struct Inodes {
    table: Mutex<Table>,
}

impl Inodes {
    /// A table of the root alone, which is never forgotten.
    pub fn new(root: OwnedFd, key: Key) -> Inodes {
        let inode = Inode {
            id: ROOT,
            key,
            kind: libc::S_IFDIR,
            opened_mtime: AtomicI64::new(i64::MIN),
            fd: root,
        };
        let entry = Entry { inode: Arc::new(inode), refs: 1 };
        Inodes {
            table: Mutex::new(Table {
                by_id: HashMap::from([(ROOT, entry)]),
                by_key: HashMap::from([(key, ROOT)]),
                next: ROOT + 1,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file with this node id.
    pub fn get(&self, id: u64) -> io::Result<Arc<Inode>> {
        match self.lock().by_id.get(&id) {
            Some(entry) => Ok(entry.inode.clone()),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// Gives the guest one reference to the file `fd` stands for.
    pub fn intern(&self, fd: OwnedFd, key: Key, mode: u32) -> Arc<Inode> {
        let mut table = self.lock();
        if let Some(id) = table.by_key.get(&key).copied()
            && let Some(entry) = table.by_id.get_mut(&id)
        {
            entry.refs = entry.refs.saturating_add(1);
            let inode = entry.inode.clone();
            // Not under the lock: closing may take its time.
            drop(table);
            drop(fd);
            return inode;
        }
        let id = table.next;
        table.next += 1;
        let inode = Arc::new(Inode {
            id,
            key,
            kind: mode & libc::S_IFMT,
            opened_mtime: AtomicI64::new(i64::MIN),
            fd,
        });
        let entry = Entry { inode: inode.clone(), refs: 1 };
        table.by_id.insert(id, entry);
        table.by_key.insert(key, id);
        inode
    }

    /// Takes `count` references back.
    pub fn forget(&self, id: u64, count: u64) {
        if id == ROOT {
            return;
        }
        let mut table = self.lock();
        let Some(entry) = table.by_id.get_mut(&id) else {
            return;
        };
        entry.refs = entry.refs.saturating_sub(count);
        if entry.refs > 0 {
            return;
        }
        let gone = table.by_id.remove(&id);
        if let Some(entry) = &gone {
            table.by_key.remove(&entry.inode.key);
        }
        drop(table);
        drop(gone);
    }

    /// Forgets everything but the root.
    pub fn clear(&self) {
        let mut table = self.lock();
        table.by_id.retain(|id, _| *id == ROOT);
        table.by_key.retain(|_, id| *id == ROOT);
    }

    /// How many files the guest knows.
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
    }
}
