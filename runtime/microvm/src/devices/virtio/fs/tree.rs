//! The file system: FUSE operations on a directory tree of the host.
//!
//! Permissions are the guest's business (it mounts with default permissions
//! and checks before it asks); what is guarded here is that no request reaches
//! anything but the tree's files, opens anything but regular files and
//! directories, or creates a file as somebody else than it says.
//!
//! Locks are kept inside the guest, as are FIFOs, sockets and devices: for
//! the host those are names and nothing else.

mod operations;
mod state;

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, OpenOptions};
use fuse_backend_rs::api::filesystem::Entry;
use libc::stat64;

use super::handle::Handles;
use super::inode::{Inodes, Limits, Node};
use super::sys::{self, FdName, Seen};
use super::{TIMEOUT, identity};

/// What a guest may ask of an open file on the host; the rest (O_DIRECT,
/// O_NOFOLLOW, O_CREAT, …) is the guest's own or ours.
const OPEN_FLAGS: i32 =
    libc::O_ACCMODE | libc::O_APPEND | libc::O_TRUNC | libc::O_SYNC | libc::O_NOATIME;

/// Directory entries are fetched in pieces of this size.
const DIR_BUFFER: usize = 32 << 10;

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// A directory tree served over FUSE.
#[derive(Debug)]
pub struct Tree {
    inodes: Inodes,
    handles: Handles,
    /// `/proc/self/fd`, by which a handle on a file is opened for real.
    proc_fd: OwnedFd,
    /// Device numbers of the tree in the order they were met.
    devices: Mutex<HashMap<u64, u64>>,
}

impl Tree {
    /// The tree below `root`. Opens `/proc/self/fd`, the only path ever used.
    /// The guest gets no more than about `descriptors` of our descriptors.
    pub fn new(root: OwnedFd, descriptors: usize) -> io::Result<Tree> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: only passed as "the current directory" of an absolute path.
        let cwd = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
        let proc_fd = sys::open_at(cwd, c"/proc/self/fd", flags, 0)?;
        let seen = sys::stat(root.as_fd())?;
        if seen.stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return Err(errno(libc::ENOTDIR));
        }
        let limits = Limits { soft: descriptors / 4 + 1, hard: descriptors / 2 + 1 };
        Ok(Tree {
            inodes: Inodes::new(root, &seen, limits),
            handles: Handles::new(descriptors / 2),
            proc_fd,
            devices: Mutex::new(HashMap::from([(seen.key.dev, 0)])),
        })
    }

    /// Readies the calling thread to serve requests.
    pub fn prepare_thread(&self) -> io::Result<()> {
        identity::prepare(self.proc_fd.as_fd())
    }

    /// Forgets what the guest knew, as at a reset.
    pub fn forget_all(&self) {
        self.handles.clear();
        self.inodes.clear();
    }

    /// How many files the guest knows and how many it has open.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.inodes.len(), self.handles.len())
    }

    /// How many descriptors the files the guest knows take.
    #[cfg(test)]
    pub fn descriptors(&self) -> usize {
        self.inodes.open()
    }

    /// The inode number the guest sees. The guest sees one device where the
    /// host may have several (volumes), so numbers of all but the first get
    /// the device's index into their upper bits.
    fn visible_ino(&self, dev: u64, ino: u64) -> u64 {
        const BITS: u32 = 48;
        let index = {
            let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            let next = devices.len() as u64;
            *devices.entry(dev).or_insert(next)
        };
        if index == 0 {
            return ino;
        }
        // Numbers wider than that (some file systems hash) are folded.
        let low = (ino ^ (ino >> BITS)) & ((1 << BITS) - 1);
        (index << BITS) ^ low
    }

    fn visible_stat(&self, seen: &Seen) -> stat64 {
        let mut stat = seen.stat;
        stat.st_ino = self.visible_ino(seen.key.dev, seen.key.ino);
        stat
    }

    fn attributes(&self, fd: BorrowedFd<'_>) -> io::Result<(stat64, Duration)> {
        Ok((self.visible_stat(&sys::stat(fd)?), TIMEOUT))
    }

    /// Gives the guest a reference to the file behind an `O_PATH` descriptor.
    fn entry(&self, fd: OwnedFd, place: Option<(u64, &CStr)>) -> io::Result<(Entry, Node)> {
        let seen = sys::stat(fd.as_fd())?;
        let node = self.inodes.intern(fd, &seen, place)?;
        let entry = Entry {
            inode: node.id,
            generation: 0,
            attr: self.visible_stat(&seen),
            attr_flags: 0,
            attr_timeout: TIMEOUT,
            entry_timeout: TIMEOUT,
        };
        Ok((entry, node))
    }

    fn look_up(&self, parent: &Node, name: &CStr) -> io::Result<(Entry, Node)> {
        self.entry(sys::open_path(parent.fd(), name)?, Some((parent.id, name)))
    }

    /// Opens for real what is held by an `O_PATH` descriptor.
    fn reopen(&self, fd: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
        let name = FdName::new(fd);
        sys::open_at(self.proc_fd.as_fd(), name.as_cstr(), flags | libc::O_CLOEXEC, 0)
    }

    /// Opens a regular file; nothing else is ever opened, or a guest could
    /// reach the host's devices by nodes it makes.
    fn open_file(&self, inode: &Node, flags: i32, kill_priv: bool) -> io::Result<OwnedFd> {
        if !inode.is_file() {
            return Err(errno(if inode.is_dir() { libc::EISDIR } else { libc::ENXIO }));
        }
        let open = || self.reopen(inode.fd(), flags & OPEN_FLAGS);
        if kill_priv && flags & libc::O_TRUNC != 0 {
            identity::without_fsetid(open)
        } else {
            open()
        }
    }

    /// What the guest is told about its cache when it opens a file: that it
    /// is still good, if the file has not changed since the last time.
    fn open_options(&self, inode: &Node, fd: BorrowedFd<'_>) -> OpenOptions {
        match sys::stat(fd) {
            Ok(seen) => {
                let mtime = seen
                    .stat
                    .st_mtime
                    .wrapping_mul(1_000_000_000)
                    .wrapping_add(seen.stat.st_mtime_nsec);
                if inode.unchanged_since_opened(mtime) {
                    OpenOptions::KEEP_CACHE
                } else {
                    OpenOptions::empty()
                }
            }
            Err(_) => OpenOptions::empty(),
        }
    }

    /// A handle on what was opened together with a lookup; if that failed, the
    /// reference given by the lookup is taken back.
    fn opened(
        &self,
        fd: io::Result<OwnedFd>,
        flags: i32,
        node: &Node,
    ) -> io::Result<(u64, OpenOptions)> {
        let result = fd.and_then(|fd| {
            let options = self.open_options(node, fd.as_fd());
            Ok((self.handles.add(node.id, false, flags, fd)?, options))
        });
        if result.is_err() {
            self.inodes.forget(node.id, 1);
        }
        result
    }

    /// Notes where something is now that was moved.
    fn note_place(&self, parent: &Node, name: &CStr) {
        let found = sys::open_path(parent.fd(), name).and_then(|fd| sys::stat(fd.as_fd()));
        if let Ok(seen) = found {
            self.inodes.moved(&seen, parent.id, name);
        }
    }

    /// A file without a name (FUSE_TMPFILE), open.
    pub fn temporary(
        &self,
        (uid, gid): (u32, u32),
        parent: u64,
        args: &CreateIn,
    ) -> io::Result<(Entry, u64, OpenOptions)> {
        let parent = self.inodes.get(parent)?;
        if !parent.is_dir() {
            return Err(errno(libc::ENOTDIR));
        }
        identity::assume(uid, gid)?;
        let flags = args.flags as i32;
        // O_EXCL means that it may not get a name later.
        let all = (flags & (OPEN_FLAGS | libc::O_EXCL)) | libc::O_TMPFILE | libc::O_CLOEXEC;
        let fd = sys::open_at(parent.fd(), c".", all, args.mode & 0o7777)?;
        let path = self.reopen(fd.as_fd(), libc::O_PATH)?;
        let (entry, node) = self.entry(path, None)?;
        let (handle, options) = self.opened(Ok(fd), flags, &node)?;
        Ok((entry, handle, options))
    }

    /// After something was created: the guest's reference to it.
    fn created(&self, parent: &Node, name: &CStr) -> io::Result<Entry> {
        self.look_up(parent, name).map(|(entry, _)| entry)
    }

    /// `copy_file_range` between two open files.
    pub fn copy_range(
        &self,
        (from, from_inode, from_at): (u64, u64, u64),
        (to, to_inode, to_at): (u64, u64, u64),
        len: u64,
    ) -> io::Result<usize> {
        let from = self.handles.get(from, from_inode, false)?;
        let to = self.handles.get(to, to_inode, false)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
        sys::copy_range(from.fd(), offset(from_at)?, to.fd(), offset(to_at)?, len)
    }

    /// `syncfs` of the file system a file is on.
    pub fn sync_fs(&self, inode: u64) -> io::Result<()> {
        // An O_PATH descriptor will not do, and not everything may be opened.
        let inode = self.inodes.get(inode)?;
        let fd = if inode.is_dir() {
            open_dir(&inode)?
        } else {
            self.open_file(&inode, libc::O_RDONLY, false)?
        };
        sys::sync_fs(fd.as_fd())
    }

    fn fill(
        &self,
        inode: u64,
        handle: u64,
        at: u64,
        add: &mut dyn FnMut(&Node, &sys::RawEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let dir = self.inodes.get(inode)?;
        let handle = self.handles.get(handle, inode, true)?;
        sys::seek(handle.fd(), offset(at)?, libc::SEEK_SET)?;
        let mut buf = vec![0u8; DIR_BUFFER];
        let mut added = false;
        loop {
            let n = match sys::read_dir(handle.fd(), &mut buf) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                // What was added must not be lost; the error comes again.
                Err(_) if added => return Ok(()),
                Err(e) => return Err(e),
            };
            let mut rest = buf.get(..n).unwrap_or_default();
            while let Some((entry, tail)) = sys::next_entry(rest) {
                match add(&dir, &entry) {
                    Ok(0) => return Ok(()),
                    Ok(_) => added = true,
                    Err(_) if added => return Ok(()),
                    Err(e) => return Err(e),
                }
                rest = tail;
            }
        }
    }
}

/// A name of one component, which the guest's kernel always sends.
pub fn component(name: &CStr) -> io::Result<&CStr> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(errno(libc::EINVAL)),
        bytes if bytes.contains(&b'/') => Err(errno(libc::EINVAL)),
        _ => Ok(name),
    }
}

fn offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(|_| errno(libc::EINVAL))
}

fn open_dir(inode: &Node) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    sys::open_at(inode.fd(), c".", flags, 0)
}
