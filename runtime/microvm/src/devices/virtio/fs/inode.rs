//! The table of files the guest knows: node ids to descriptors.
//!
//! An entry lives as long as the guest holds references, which it gets by
//! lookups and gives back by FORGET. Its `O_PATH` descriptor pins the inode
//! on the host, so that a number in the table always means the same file,
//! even when it has been renamed or deleted. Node ids are never used twice.
//!
//! A guest may know more files than a process may have descriptors. Beyond a
//! number of them ([`Limits`]), descriptors of files that were not used lately
//! are closed, if the file is found where the guest last saw it, and opened
//! again from there when needed. What the guest removes or renames is opened
//! before, so its own doings never lose a file; the host's may (ESTALE).

mod state;

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sys::{self, Key, Seen};

pub use state::{SavedInode, StateError};

/// Node id of the root (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// How many descriptors are looked at when there are too many.
const BATCH: usize = 64;

/// No tree is deeper; a longer way up is a circle.
const DEPTH: usize = 1 << 16;

/// How many descriptors the files the guest knows may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Beyond this some are closed.
    pub soft: usize,
    /// More are refused.
    pub hard: usize,
}

/// A file the guest knows.
#[derive(Debug)]
pub struct Inode {
    /// Its node id.
    pub id: u64,
    /// Which file it is.
    pub key: Key,
    /// When it was born, to tell it from a later one with its number.
    born: (i64, u32),
    /// `S_IF*` of it, which never changes.
    kind: u32,
    /// The modification time (ns) when it was last opened, to tell whether
    /// what the guest has cached is still the content.
    opened_mtime: AtomicI64,
    /// Used since it was last looked at for closing.
    used: AtomicBool,
    held: Mutex<Held>,
}

/// By what a file is held.
#[derive(Debug)]
struct Held {
    fd: Option<Arc<OwnedFd>>,
    /// Where the guest last saw it; none if it has no name (any more).
    place: Option<(u64, CString)>,
}

impl Inode {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, seen: &Seen) -> bool {
        self.key == seen.key && self.born == seen.born
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

/// A file the guest knows, with its descriptor for as long as this lives.
#[derive(Clone, Debug)]
pub struct Node {
    inode: Arc<Inode>,
    fd: Arc<OwnedFd>,
}

impl Node {
    /// Its `O_PATH` descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Deref for Node {
    type Target = Inode;

    fn deref(&self) -> &Inode {
        &self.inode
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
    /// Where to find what has no descriptor.
    closed: HashMap<(u64, CString), u64>,
    /// Those with one, in the order in which they are looked at for closing.
    clock: VecDeque<u64>,
    /// Descriptors held.
    open: usize,
    next: u64,
}

impl Table {
    fn opened(&mut self, id: u64) {
        self.open += 1;
        self.clock.push_back(id);
        // Forgotten ones are left in the queue; not for ever.
        if self.clock.len() > 2 * self.by_id.len() + 1024 {
            let by_id = &self.by_id;
            self.clock.retain(|id| by_id.contains_key(id));
        }
    }
}

/// All files the guest knows.
#[derive(Debug)]
pub struct Inodes {
    table: Mutex<Table>,
    limits: Limits,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Inodes {
    /// A table of the root alone, which is never forgotten.
    pub fn new(root: OwnedFd, seen: &Seen, limits: Limits) -> Inodes {
        let inode = Inode {
            id: ROOT,
            key: seen.key,
            born: seen.born,
            kind: libc::S_IFDIR,
            opened_mtime: AtomicI64::new(i64::MIN),
            used: AtomicBool::new(true),
            held: Mutex::new(Held { fd: Some(Arc::new(root)), place: None }),
        };
        Inodes {
            table: Mutex::new(Table {
                by_key: HashMap::from([(inode.key, ROOT)]),
                by_id: HashMap::from([(ROOT, Entry { inode: Arc::new(inode), refs: 1 })]),
                closed: HashMap::new(),
                clock: VecDeque::new(),
                open: 1,
                next: ROOT + 1,
            }),
            limits,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inode(&self, id: u64) -> Option<Arc<Inode>> {
        self.lock().by_id.get(&id).map(|entry| entry.inode.clone())
    }

    /// The file with this node id.
    pub fn get(&self, id: u64) -> io::Result<Node> {
        let (node, reopened) = self.open_node(id)?;
        if reopened {
            self.trim();
        }
        Ok(node)
    }

    /// The same, and whether it had to be opened again.
    fn open_node(&self, id: u64) -> io::Result<(Node, bool)> {
        let inode = self.inode(id).ok_or_else(|| errno(libc::EBADF))?;
        inode.used.store(true, Ordering::Relaxed);
        let fd = inode.held().fd.clone();
        match fd {
            Some(fd) => Ok((Node { inode, fd }, false)),
            None => Ok((self.reopen(inode)?, true)),
        }
    }

    /// Opens a file again from where it was last seen, and the directories on
    /// the way to it.
    fn reopen(&self, inode: Arc<Inode>) -> io::Result<Node> {
        let stale = || errno(libc::ESTALE);
        let mut way = vec![inode];
        let mut parent = loop {
            let (id, ..) = way.last().and_then(|i| i.held().place.clone()).ok_or_else(stale)?;
            let above = self.inode(id).ok_or_else(stale)?;
            let fd = above.held().fd.clone();
            match fd {
                Some(fd) => break Node { inode: above, fd },
                None if way.len() < DEPTH => way.push(above),
                None => return Err(stale()),
            }
        };
        while let Some(inode) = way.pop() {
            let (_, name) = inode.held().place.clone().ok_or_else(stale)?;
            let fd = sys::open_path(parent.fd(), &name).map_err(|_| stale())?;
            let seen = sys::stat(fd.as_fd())?;
            if !inode.is(&seen) {
                return Err(stale());
            }
            let mut table = self.lock();
            let mut held = inode.held();
            let fd = match held.fd.clone() {
                Some(fd) => fd,
                None => {
                    if let Some(place) = &held.place {
                        table.closed.remove(place);
                    }
                    let fd = Arc::new(fd);
                    held.fd = Some(fd.clone());
                    table.opened(inode.id);
                    fd
                }
            };
            drop(held);
            drop(table);
            inode.used.store(true, Ordering::Relaxed);
            parent = Node { inode, fd };
        }
        Ok(parent)
    }

    /// Gives the guest one reference to the file `fd` stands for, found at
    /// `place` (its directory and name).
    pub fn intern(
        &self,
        fd: OwnedFd,
        seen: &Seen,
        place: Option<(u64, &CStr)>,
    ) -> io::Result<Node> {
        let place = place.map(|(parent, name)| (parent, name.to_owned()));
        let mut table = self.lock();
        let known = table.by_key.get(&seen.key).copied();
        if let Some(entry) = known.and_then(|id| table.by_id.get_mut(&id))
            && entry.inode.is(seen)
        {
            entry.refs = entry.refs.saturating_add(1);
            let inode = entry.inode.clone();
            let mut held = inode.held();
            let was = std::mem::replace(&mut held.place, place);
            let (fd, spare) = match held.fd.clone() {
                Some(open) => (open, Some(fd)),
                None => {
                    if let Some(was) = was {
                        table.closed.remove(&was);
                    }
                    let fd = Arc::new(fd);
                    held.fd = Some(fd.clone());
                    table.opened(inode.id);
                    (fd, None)
                }
            };
            drop(held);
            // Closing may take its time: not under the lock.
            drop(table);
            drop(spare);
            return Ok(Node { inode, fd });
        }
        if table.open >= self.limits.hard {
            return Err(errno(libc::ENFILE));
        }
        let id = table.next;
        table.next += 1;
        let fd = Arc::new(fd);
        let inode = Arc::new(Inode {
            id,
            key: seen.key,
            born: seen.born,
            kind: seen.stat.st_mode & libc::S_IFMT,
            opened_mtime: AtomicI64::new(i64::MIN),
            used: AtomicBool::new(true),
            held: Mutex::new(Held { fd: Some(fd.clone()), place }),
        });
        table.by_id.insert(id, Entry { inode: inode.clone(), refs: 1 });
        table.by_key.insert(seen.key, id);
        table.opened(id);
        drop(table);
        self.trim();
        Ok(Node { inode, fd })
    }

    /// Closes some descriptors if there are too many.
    fn trim(&self) {
        let mut candidates = Vec::new();
        {
            let mut table = self.lock();
            if table.open <= self.limits.soft {
                return;
            }
            for _ in 0..BATCH {
                let Some(id) = table.clock.pop_front() else { break };
                let Some(entry) = table.by_id.get(&id) else { continue };
                let inode = entry.inode.clone();
                if inode.used.swap(false, Ordering::Relaxed) {
                    table.clock.push_back(id);
                } else {
                    candidates.push(inode);
                }
            }
        }
        for inode in candidates {
            let closed = self.close(&inode);
            if !closed {
                self.lock().clock.push_back(inode.id);
            }
        }
    }

    /// Closes a file's descriptor, if it can be found again.
    fn close(&self, inode: &Inode) -> bool {
        let (fd, place) = {
            let held = inode.held();
            (held.fd.clone(), held.place.clone())
        };
        let (Some(_), Some(place)) = (fd, place) else { return false };
        let Ok((above, _)) = self.open_node(place.0) else { return false };
        let found = sys::open_path(above.fd(), &place.1).and_then(|fd| sys::stat(fd.as_fd()));
        if !found.is_ok_and(|seen| inode.is(&seen)) {
            return false;
        }
        let mut table = self.lock();
        let mut held = inode.held();
        // It may have been forgotten, moved or closed in the meantime.
        let same = held.place.as_ref() == Some(&place) && held.fd.is_some();
        if !same || !table.by_id.contains_key(&inode.id) {
            return false;
        }
        let fd = held.fd.take();
        table.closed.insert(place, inode.id);
        table.open -= 1;
        drop(held);
        drop(table);
        drop(fd);
        true
    }

    /// Before the name `name` in `parent` is removed or replaced: opens what
    /// the guest knows by it, if that has no descriptor.
    pub fn before_change(&self, parent: u64, name: &CStr) {
        let inode = {
            let table = self.lock();
            if table.closed.is_empty() {
                return;
            }
            let id = table.closed.get(&(parent, name.to_owned())).copied();
            id.and_then(|id| table.by_id.get(&id)).map(|entry| entry.inode.clone())
        };
        // If it is not to be found, it is gone already.
        if let Some(inode) = inode {
            let _ = self.reopen(inode);
        }
    }

    /// After something was moved to `name` in `parent`: the file notes it.
    pub fn moved(&self, seen: &Seen, parent: u64, name: &CStr) {
        let table = self.lock();
        let id = table.by_key.get(&seen.key);
        if let Some(entry) = id.and_then(|id| table.by_id.get(id))
            && entry.inode.is(seen)
        {
            let mut held = entry.inode.held();
            if held.fd.is_some() {
                held.place = Some((parent, name.to_owned()));
            }
        }
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
        let Some(entry) = table.by_id.remove(&id) else { return };
        if table.by_key.get(&entry.inode.key) == Some(&id) {
            table.by_key.remove(&entry.inode.key);
        }
        let held = entry.inode.held();
        match (&held.fd, &held.place) {
            (Some(_), _) => table.open -= 1,
            (None, Some(place)) => drop(table.closed.remove(place)),
            (None, None) => {}
        }
        drop(held);
        drop(table);
        drop(entry);
    }

    /// Forgets everything but the root.
    pub fn clear(&self) {
        let mut table = self.lock();
        let gone: Vec<Entry> = {
            let ids: Vec<u64> = table.by_id.keys().copied().filter(|id| *id != ROOT).collect();
            ids.iter().filter_map(|id| table.by_id.remove(id)).collect()
        };
        table.by_key.retain(|_, id| *id == ROOT);
        table.closed.clear();
        table.clock.clear();
        table.open = 1;
        drop(table);
        drop(gone);
    }

    /// How many files the guest knows.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// How many descriptors they take.
    #[cfg(test)]
    pub fn open(&self) -> usize {
        self.lock().open
    }
}
