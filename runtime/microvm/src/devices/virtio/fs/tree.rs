//! The file system: FUSE operations on a directory tree of the host.
//!
//! Permissions are the guest's business (it mounts with default permissions
//! and checks before it asks); what is guarded here is that no request reaches
//! anything but the tree's files, opens anything but regular files and
//! directories, or creates a file as somebody else than it says.
//!
//! Locks are kept inside the guest, as are FIFOs, sockets and devices: for
//! the host those are names and nothing else.

mod state;

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FOPEN_IN_KILL_SUIDGID, FsOptions, OpenOptions, SetattrValid, WRITE_KILL_PRIV,
};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyReader,
    ZeroCopyWriter,
};
use libc::{stat64, statvfs64};

use super::handle::Handles;
use super::inode::{Inodes, Limits, Node, ROOT};
use super::sys::{self, FdName, Seen};
use super::{TIMEOUT, identity};

/// What a guest may ask of an open file on the host; the rest (O_DIRECT,
/// O_NOFOLLOW, O_CREAT, …) is the guest's own or ours.
const OPEN_FLAGS: i32 =
    libc::O_ACCMODE | libc::O_APPEND | libc::O_TRUNC | libc::O_SYNC | libc::O_NOATIME;

/// Directory entries are fetched in pieces of this size.
const DIR_BUFFER: usize = 32 << 10;

/// The largest extended attribute (linux/limits.h, XATTR_SIZE_MAX) and list.
const XATTR_MAX: u32 = 64 << 10;

/// Everything the guest is offered, if it can.
const WANTED: FsOptions = FsOptions::ASYNC_READ
    .union(FsOptions::ATOMIC_O_TRUNC)
    .union(FsOptions::BIG_WRITES)
    .union(FsOptions::AUTO_INVAL_DATA)
    .union(FsOptions::DO_READDIRPLUS)
    .union(FsOptions::READDIRPLUS_AUTO)
    .union(FsOptions::ASYNC_DIO)
    .union(FsOptions::PARALLEL_DIROPS)
    .union(FsOptions::MAX_PAGES)
    .union(FsOptions::CACHE_SYMLINKS)
    .union(FsOptions::HANDLE_KILLPRIV_V2);

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

/// Extended attributes are reached by the current directory, see `identity`.
fn xattr_thread() -> io::Result<()> {
    if identity::prepared() { Ok(()) } else { Err(errno(libc::EIO)) }
}

/// Runs a call that fills a buffer of the size the guest has, or tells the
/// size needed.
fn sized(
    size: u32,
    call: impl Fn(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Result<Vec<u8>, u32>> {
    if size == 0 {
        return Ok(Err(call(&mut [])? as u32));
    }
    let mut buf = vec![0u8; size.min(XATTR_MAX) as usize];
    let n = call(&mut buf)?;
    buf.truncate(n);
    Ok(Ok(buf))
}

impl FileSystem for Tree {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _capable: FsOptions) -> io::Result<FsOptions> {
        self.forget_all();
        Ok(WANTED)
    }

    fn destroy(&self) {
        self.forget_all();
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let parent = self.inodes.get(parent)?;
        match self.look_up(&parent, component(name)?) {
            Ok((entry, _)) => Ok(entry),
            // An entry without a node: the guest may remember that, too.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                Ok(Entry { entry_timeout: TIMEOUT, ..Entry::default() })
            }
            Err(e) => Err(e),
        }
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.inodes.forget(inode, count);
    }

    fn batch_forget(&self, _: &Context, requests: Vec<(u64, u64)>) {
        for (inode, count) in requests {
            self.inodes.forget(inode, count);
        }
    }

    fn getattr(
        &self,
        _: &Context,
        inode: u64,
        _handle: Option<u64>,
    ) -> io::Result<(stat64, Duration)> {
        self.attributes(self.inodes.get(inode)?.fd())
    }

    fn setattr(
        &self,
        _: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let id = inode;
        let inode = self.inodes.get(inode)?;
        if valid.contains(SetattrValid::MODE) {
            let name = FdName::new(inode.fd());
            sys::chmod_at(self.proc_fd.as_fd(), name.as_cstr(), attr.st_mode & 0o7777)?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let id = |flag, id| if valid.contains(flag) { id } else { u32::MAX };
            sys::chown(
                inode.fd(),
                id(SetattrValid::UID, attr.st_uid),
                id(SetattrValid::GID, attr.st_gid),
            )?;
        }
        if valid.contains(SetattrValid::SIZE) {
            let handle = handle.map(|h| self.handles.get(h, id, false)).transpose()?;
            let opened;
            let fd = match &handle {
                Some(handle) => handle.fd(),
                None => {
                    opened = self.open_file(&inode, libc::O_WRONLY, false)?;
                    opened.as_fd()
                }
            };
            let truncate = || sys::truncate(fd, attr.st_size);
            if valid.contains(SetattrValid::KILL_SUIDGID) {
                identity::without_fsetid(truncate)?;
            } else {
                truncate()?;
            }
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            let time = |set, now, sec, nsec| libc::timespec {
                tv_sec: sec,
                tv_nsec: if valid.contains(now) {
                    libc::UTIME_NOW
                } else if valid.contains(set) {
                    nsec
                } else {
                    libc::UTIME_OMIT
                },
            };
            let times = [
                time(
                    SetattrValid::ATIME,
                    SetattrValid::ATIME_NOW,
                    attr.st_atime,
                    attr.st_atime_nsec,
                ),
                time(
                    SetattrValid::MTIME,
                    SetattrValid::MTIME_NOW,
                    attr.st_mtime,
                    attr.st_mtime_nsec,
                ),
            ];
            sys::set_times(inode.fd(), &times)?;
        }
        self.attributes(inode.fd())
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        sys::read_link(self.inodes.get(inode)?.fd())
    }

    fn symlink(&self, ctx: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        let parent = self.inodes.get(parent)?;
        identity::assume(ctx.uid, ctx.gid)?;
        sys::symlink(target, parent.fd(), component(name)?)?;
        self.created(&parent, name)
    }

    fn mknod(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        _umask: u32,
    ) -> io::Result<Entry> {
        let parent = self.inodes.get(parent)?;
        identity::assume(ctx.uid, ctx.gid)?;
        // The kernel's 32-bit device number is dev_t's lower half.
        sys::mknod(parent.fd(), component(name)?, mode, u64::from(rdev))?;
        self.created(&parent, name)
    }

    fn mkdir(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _umask: u32,
    ) -> io::Result<Entry> {
        let parent = self.inodes.get(parent)?;
        identity::assume(ctx.uid, ctx.gid)?;
        sys::mkdir(parent.fd(), component(name)?, mode)?;
        self.created(&parent, name)
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.inodes.before_change(parent, name);
        sys::unlink(self.inodes.get(parent)?.fd(), component(name)?, false)
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.inodes.before_change(parent, name);
        sys::unlink(self.inodes.get(parent)?.fd(), component(name)?, true)
    }

    fn rename(
        &self,
        _: &Context,
        olddir: u64,
        oldname: &CStr,
        newdir: u64,
        newname: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (from, to) = (self.inodes.get(olddir)?, self.inodes.get(newdir)?);
        let (old, new) = (component(oldname)?, component(newname)?);
        self.inodes.before_change(olddir, old);
        self.inodes.before_change(newdir, new);
        sys::rename(from.fd(), old, to.fd(), new, flags)?;
        self.note_place(&to, new);
        if flags & libc::RENAME_EXCHANGE != 0 {
            self.note_place(&from, old);
        }
        Ok(())
    }

    fn link(&self, _: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let (inode, parent) = (self.inodes.get(inode)?, self.inodes.get(parent)?);
        let source = FdName::new(inode.fd());
        sys::link_at(self.proc_fd.as_fd(), source.as_cstr(), parent.fd(), component(name)?)?;
        self.created(&parent, name)
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let inode = self.inodes.get(inode)?;
        let kill_priv = fuse_flags & FOPEN_IN_KILL_SUIDGID != 0;
        let fd = self.open_file(&inode, flags as i32, kill_priv)?;
        let options = self.open_options(&inode, fd.as_fd());
        let handle = self.handles.add(inode.id, false, flags as i32, fd)?;
        Ok((Some(handle), options, None))
    }

    fn create(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let parent = self.inodes.get(parent)?;
        let name = component(name)?;
        identity::assume(ctx.uid, ctx.gid)?;
        let flags = args.flags as i32;
        // Always exclusive: what is there already may be anything, and is
        // opened with the care of `open_file`.
        let fresh = (flags & OPEN_FLAGS)
            | libc::O_CREAT
            | libc::O_EXCL
            | libc::O_NOFOLLOW
            | libc::O_CLOEXEC;
        let (fd, entry, node) = match sys::open_at(parent.fd(), name, fresh, args.mode & 0o7777) {
            Ok(fd) => {
                let path = self.reopen(fd.as_fd(), libc::O_PATH)?;
                let (entry, node) = self.entry(path, Some((parent.id, name)))?;
                (Ok(fd), entry, node)
            }
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) && flags & libc::O_EXCL == 0 => {
                let (entry, node) = self.look_up(&parent, name)?;
                let kill_priv = args.fuse_flags & FOPEN_IN_KILL_SUIDGID != 0;
                (self.open_file(&node, flags, kill_priv), entry, node)
            }
            Err(e) => return Err(e),
        };
        let (handle, options) = self.opened(fd, flags, &node)?;
        Ok((entry, Some(handle), options, None))
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        let handle = self.handles.get(handle, inode, false)?;
        let size = (size as usize).min(w.available_bytes());
        sys::with_file(handle.fd(), |file| w.write_from(file, size, offset))
    }

    fn write(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _delayed_write: bool,
        _flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let handle = self.handles.get(handle, inode, false)?;
        let write = || sys::with_file(handle.fd(), |file| r.read_to(file, size as usize, offset));
        if fuse_flags & WRITE_KILL_PRIV != 0 {
            identity::without_fsetid(write)
        } else {
            let mut write = write;
            write()
        }
    }

    fn fsync(&self, _: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        let handle = self.handles.get(handle, inode, false)?;
        sys::sync(handle.fd(), datasync)
    }

    fn fallocate(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        at: u64,
        length: u64,
    ) -> io::Result<()> {
        let handle = self.handles.get(handle, inode, false)?;
        sys::allocate(handle.fd(), mode as i32, offset(at)?, offset(length)?)
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _flags: u32,
        handle: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.handles.get(handle, inode, false)?;
        self.handles.remove(handle)
    }

    fn statfs(&self, _: &Context, inode: u64) -> io::Result<statvfs64> {
        sys::statvfs(self.inodes.get(inode)?.fd())
    }

    fn setxattr(
        &self,
        _: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        xattr_thread()?;
        let inode = self.inodes.get(inode)?;
        sys::set_xattr(FdName::new(inode.fd()).as_cstr(), name, value, flags)
    }

    fn getxattr(
        &self,
        _: &Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        xattr_thread()?;
        let inode = self.inodes.get(inode)?;
        let file = FdName::new(inode.fd());
        Ok(match sized(size, |buf| sys::get_xattr(file.as_cstr(), name, buf))? {
            Ok(value) => GetxattrReply::Value(value),
            Err(needed) => GetxattrReply::Count(needed),
        })
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        xattr_thread()?;
        let inode = self.inodes.get(inode)?;
        let file = FdName::new(inode.fd());
        Ok(match sized(size, |buf| sys::list_xattr(file.as_cstr(), buf))? {
            Ok(names) => ListxattrReply::Names(names),
            Err(needed) => ListxattrReply::Count(needed),
        })
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        xattr_thread()?;
        let inode = self.inodes.get(inode)?;
        sys::remove_xattr(FdName::new(inode.fd()).as_cstr(), name)
    }

    fn opendir(
        &self,
        _: &Context,
        inode: u64,
        _flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let inode = self.inodes.get(inode)?;
        if !inode.is_dir() {
            return Err(errno(libc::ENOTDIR));
        }
        let fd = open_dir(&inode)?;
        let handle = self.handles.add(inode.id, true, 0, fd)?;
        Ok((Some(handle), OpenOptions::empty()))
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        _size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.fill(inode, handle, offset, &mut |dir, raw| {
            add_entry(DirEntry {
                ino: self.visible_ino(dir.key.dev, raw.ino),
                offset: raw.next,
                type_: u32::from(raw.kind),
                name: raw.name.to_bytes(),
            })
        })
    }

    fn readdirplus(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        _size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.fill(inode, handle, offset, &mut |dir, raw| {
            let mut ino = self.visible_ino(dir.key.dev, raw.ino);
            // Without a node id an entry says nothing of attributes: for "."
            // and "..", and what went away or cannot be held just now.
            let entry = match component(raw.name) {
                Ok(name) => match self.look_up(dir, name) {
                    Ok((entry, _)) => entry,
                    Err(_) => Entry::default(),
                },
                Err(_) => Entry::default(),
            };
            if entry.inode != 0 {
                ino = entry.attr.st_ino;
            }
            let result = add_entry(
                DirEntry {
                    ino,
                    offset: raw.next,
                    type_: u32::from(raw.kind),
                    name: raw.name.to_bytes(),
                },
                entry,
            );
            // Did not fit: then the guest has not got the reference either.
            if !matches!(result, Ok(n) if n > 0) && entry.inode > ROOT {
                self.inodes.forget(entry.inode, 1);
            }
            result
        })
    }

    fn fsyncdir(&self, _: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        let handle = self.handles.get(handle, inode, true)?;
        sys::sync(handle.fd(), datasync)
    }

    fn releasedir(&self, _: &Context, inode: u64, _flags: u32, handle: u64) -> io::Result<()> {
        self.handles.get(handle, inode, true)?;
        self.handles.remove(handle)
    }

    fn lseek(&self, _: &Context, inode: u64, handle: u64, at: u64, whence: u32) -> io::Result<u64> {
        let whence = whence as i32;
        if !matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE) {
            return Err(errno(libc::EINVAL));
        }
        let handle = self.handles.get(handle, inode, false)?;
        sys::seek(handle.fd(), offset(at)?, whence)
    }
}
