//! The operations the FUSE server asks for, one function each.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FOPEN_IN_KILL_SUIDGID, FsOptions, OpenOptions, SetattrValid, WRITE_KILL_PRIV,
};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyReader,
    ZeroCopyWriter,
};
use libc::{stat64, statvfs64};

use super::super::identity;
use super::super::inode::ROOT;
use super::super::sys::{self, FdName};
use super::{OPEN_FLAGS, Tree, component, errno, offset, open_dir};

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
        // A missing name is an error and not an entry without a node, which the guest would
        // remember: made by somebody else meanwhile, it would be there for mkdir (EEXIST) and
        // missing for open.
        self.look_up(&parent, component(name)?).map(|(entry, _)| entry)
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
