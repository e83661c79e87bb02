//! The system calls of the tree, each with its object as a descriptor and, at
//! most, one name below it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, stat64};

/// Which file it is: the same inode seen through two mounts is two files, as
/// the mounts may differ in flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Device number, `makedev` form.
    pub dev: u64,
    /// Mount it was reached by.
    pub mnt: u64,
    /// Inode number on the device.
    pub ino: u64,
}

/// What is seen of a file when it is looked at.
#[derive(Clone, Copy)]
pub struct Seen {
    /// Which file it is.
    pub key: Key,
    /// When it was born; zero where the file system does not say.
    pub born: (i64, u32),
    /// Its attributes.
    pub stat: stat64,
}

/// Turns a system call's result into a `Result`.
pub fn check(ret: c_int) -> io::Result<c_int> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn owned(ret: c_int) -> io::Result<OwnedFd> {
    let fd = check(ret)?;
    // SAFETY: the call that returned it has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A handle on the file called `name`, without opening it: nothing is
/// followed, no driver is woken.
pub fn open_path(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    open_at(parent, name, libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC, 0)
}

/// `openat`; the caller answers for `flags` not following what it must not.
pub fn open_at(
    parent: BorrowedFd<'_>,
    name: &CStr,
    flags: c_int,
    mode: u32,
) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a terminated string that lives through the call.
    owned(unsafe { libc::openat(parent.as_raw_fd(), name.as_ptr(), flags, mode) })
}

/// Attributes and identity of what a descriptor stands for.
pub fn stat(fd: BorrowedFd<'_>) -> io::Result<Seen> {
    let mut buf = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty terminated path and a buffer of the right size.
    check(unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_SYNC_AS_STAT,
            libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID,
            buf.as_mut_ptr(),
        )
    })?;
    // SAFETY: zeroed at first and filled by the kernel; any content is valid.
    let x = unsafe { buf.assume_init() };
    let key = Key {
        dev: libc::makedev(x.stx_dev_major, x.stx_dev_minor),
        mnt: x.stx_mnt_id,
        ino: x.stx_ino,
    };
    // SAFETY: `stat64` is plain numbers, for which zero is a value.
    let mut st: stat64 = unsafe { std::mem::zeroed() };
    st.st_dev = key.dev;
    st.st_ino = x.stx_ino;
    st.st_mode = u32::from(x.stx_mode);
    st.st_nlink = u64::from(x.stx_nlink);
    st.st_uid = x.stx_uid;
    st.st_gid = x.stx_gid;
    st.st_rdev = libc::makedev(x.stx_rdev_major, x.stx_rdev_minor);
    st.st_size = x.stx_size as i64;
    st.st_blksize = i64::from(x.stx_blksize);
    st.st_blocks = x.stx_blocks as i64;
    st.st_atime = x.stx_atime.tv_sec;
    st.st_atime_nsec = i64::from(x.stx_atime.tv_nsec);
    st.st_mtime = x.stx_mtime.tv_sec;
    st.st_mtime_nsec = i64::from(x.stx_mtime.tv_nsec);
    st.st_ctime = x.stx_ctime.tv_sec;
    st.st_ctime_nsec = i64::from(x.stx_ctime.tv_nsec);
    let born = match x.stx_mask & libc::STATX_BTIME {
        0 => (0, 0),
        _ => (x.stx_btime.tv_sec, x.stx_btime.tv_nsec),
    };
    Ok(Seen { key, born, stat: st })
}

/// The name of a descriptor inside `/proc/self/fd`, without allocating.
pub struct FdName([u8; 12]);

impl FdName {
    /// Of this descriptor.
    pub fn new(fd: BorrowedFd<'_>) -> FdName {
        let mut buf = [0u8; 12];
        let mut n = fd.as_raw_fd().unsigned_abs();
        let mut at = buf.len() - 1;
        loop {
            at -= 1;
            buf[at] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        buf.copy_within(at.., 0);
        FdName(buf)
    }

    /// As the system calls want it.
    pub fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// `fchownat` of the thing itself; `u32::MAX` leaves an id as it is.
pub fn chown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: an empty terminated path.
    check(unsafe {
        libc::fchownat(
            fd.as_raw_fd(),
            c"".as_ptr(),
            uid,
            gid,
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW,
        )
    })
    .map(drop)
}

/// `fchmodat` of a name in `dir`; follows it, so `dir` is `/proc/self/fd`.
pub fn chmod_at(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: a terminated path.
    check(unsafe { libc::fchmodat(dir.as_raw_fd(), name.as_ptr(), mode, 0) }).map(drop)
}

/// Sets access and modification time of the thing itself (Linux 5.8).
pub fn set_times(fd: BorrowedFd<'_>, times: &[libc::timespec; 2]) -> io::Result<()> {
    // SAFETY: an empty terminated path and two times.
    check(unsafe {
        libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH)
    })
    .map(drop)
}

/// `ftruncate`.
pub fn truncate(fd: BorrowedFd<'_>, size: i64) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::ftruncate64(fd.as_raw_fd(), size) }).map(drop)
}

/// The target of the symlink that `fd` stands for.
pub fn read_link(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut buf = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: an empty terminated path and a buffer with its own length.
    let n = unsafe {
        libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), buf.as_mut_ptr().cast(), buf.len())
    };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    buf.truncate(n as usize);
    Ok(buf)
}

/// `symlinkat`.
pub fn symlink(target: &CStr, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: two terminated strings.
    check(unsafe { libc::symlinkat(target.as_ptr(), parent.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// `mknodat`.
pub fn mknod(parent: BorrowedFd<'_>, name: &CStr, mode: u32, dev: u64) -> io::Result<()> {
    // SAFETY: a terminated string.
    check(unsafe { libc::mknodat(parent.as_raw_fd(), name.as_ptr(), mode, dev) }).map(drop)
}

/// `mkdirat`.
pub fn mkdir(parent: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: a terminated string.
    check(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// `unlinkat`, of a directory if `dir`.
pub fn unlink(parent: BorrowedFd<'_>, name: &CStr, dir: bool) -> io::Result<()> {
    let flags = if dir { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: a terminated string.
    check(unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), flags) }).map(drop)
}

/// `renameat2`.
pub fn rename(
    from: BorrowedFd<'_>,
    old: &CStr,
    to: BorrowedFd<'_>,
    new: &CStr,
    flags: u32,
) -> io::Result<()> {
    // SAFETY: two terminated strings.
    check(unsafe {
        libc::renameat2(from.as_raw_fd(), old.as_ptr(), to.as_raw_fd(), new.as_ptr(), flags)
    })
    .map(drop)
}

/// `linkat` of a name in `dir`; follows it, so `dir` is `/proc/self/fd`.
pub fn link_at(
    dir: BorrowedFd<'_>,
    source: &CStr,
    parent: BorrowedFd<'_>,
    name: &CStr,
) -> io::Result<()> {
    // SAFETY: two terminated strings.
    check(unsafe {
        libc::linkat(
            dir.as_raw_fd(),
            source.as_ptr(),
            parent.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })
    .map(drop)
}

/// `fstatvfs`.
pub fn statvfs(fd: BorrowedFd<'_>) -> io::Result<libc::statvfs64> {
    let mut buf = MaybeUninit::<libc::statvfs64>::zeroed();
    // SAFETY: a buffer of the right size.
    check(unsafe { libc::fstatvfs64(fd.as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: zeroed at first and filled by the call; any content is valid.
    Ok(unsafe { buf.assume_init() })
}

/// `fsync` or `fdatasync`.
pub fn sync(fd: BorrowedFd<'_>, data_only: bool) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: a number only.
    check(unsafe { if data_only { libc::fdatasync(fd) } else { libc::fsync(fd) } }).map(drop)
}

/// `syncfs`.
pub fn sync_fs(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a number only.
    check(unsafe { libc::syncfs(fd.as_raw_fd()) }).map(drop)
}

/// `fallocate`.
pub fn allocate(fd: BorrowedFd<'_>, mode: c_int, offset: i64, length: i64) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::fallocate64(fd.as_raw_fd(), mode, offset, length) }).map(drop)
}

/// `lseek`.
pub fn seek(fd: BorrowedFd<'_>, offset: i64, whence: c_int) -> io::Result<u64> {
    // SAFETY: numbers only.
    let at = unsafe { libc::lseek64(fd.as_raw_fd(), offset, whence) };
    if at < 0 { Err(io::Error::last_os_error()) } else { Ok(at as u64) }
}

/// `copy_file_range` at given offsets.
pub fn copy_range(
    from: BorrowedFd<'_>,
    mut from_at: i64,
    to: BorrowedFd<'_>,
    mut to_at: i64,
    len: usize,
) -> io::Result<usize> {
    // SAFETY: the offsets live through the call.
    let n = unsafe {
        libc::copy_file_range(from.as_raw_fd(), &mut from_at, to.as_raw_fd(), &mut to_at, len, 0)
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// Directory entries into `buf`; how many bytes of it were filled.
pub fn read_dir(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: a buffer with its own length.
    let n =
        unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buf.as_mut_ptr(), buf.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// One record of `getdents64`.
#[derive(Debug, PartialEq, Eq)]
pub struct RawEntry<'a> {
    /// Inode number on the directory's device.
    pub ino: u64,
    /// Where the next record is.
    pub next: u64,
    /// `DT_*`.
    pub kind: u8,
    /// The name, without a nul.
    pub name: &'a CStr,
}

/// Takes the first record off a buffer filled by [`read_dir`].
pub fn next_entry(buf: &[u8]) -> Option<(RawEntry<'_>, &[u8])> {
    // d_ino, d_off: 8 bytes each; d_reclen: 2; d_type: 1; then the name.
    const NAME: usize = 19;
    let len = usize::from(u16::from_ne_bytes(buf.get(16..18)?.try_into().ok()?));
    let record = buf.get(..len)?;
    let entry = RawEntry {
        ino: u64::from_ne_bytes(record.get(..8)?.try_into().ok()?),
        next: u64::from_ne_bytes(record.get(8..16)?.try_into().ok()?),
        kind: *record.get(18)?,
        name: CStr::from_bytes_until_nul(record.get(NAME..)?).ok()?,
    };
    Some((entry, &buf[len..]))
}

/// `setxattr` of a name in the current directory, which is `/proc/self/fd`.
pub fn set_xattr(file: &CStr, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
    // SAFETY: two terminated strings and a buffer with its own length.
    check(unsafe {
        libc::setxattr(
            file.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags as c_int,
        )
    })
    .map(drop)
}

/// `getxattr`, likewise; with an empty buffer the size needed.
pub fn get_xattr(file: &CStr, name: &CStr, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: two terminated strings and a buffer with its own length.
    let n =
        unsafe { libc::getxattr(file.as_ptr(), name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// `listxattr`, likewise.
pub fn list_xattr(file: &CStr, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: a terminated string and a buffer with its own length.
    let n = unsafe { libc::listxattr(file.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
}

/// `removexattr`, likewise.
pub fn remove_xattr(file: &CStr, name: &CStr) -> io::Result<()> {
    // SAFETY: two terminated strings.
    check(unsafe { libc::removexattr(file.as_ptr(), name.as_ptr()) }).map(drop)
}

/// Raises the limit of open files to what may be had: each file the guest
/// knows is a descriptor. Returns the limit.
pub fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a buffer of the right size.
    check(unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, &mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: a filled structure.
        check(unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &limit) })?;
    }
    Ok(limit.rlim_cur)
}

/// A descriptor as a `File`, for as long as it is borrowed.
pub fn with_file<T>(fd: BorrowedFd<'_>, f: impl FnOnce(&mut File) -> T) -> T {
    // SAFETY: the descriptor is open as long as the borrow lasts, and
    // `ManuallyDrop` keeps the `File` from closing it.
    let mut file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(fd.as_raw_fd()) });
    f(&mut file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_name_of_a_descriptor_is_its_number() {
        let file = File::open("/dev/null").unwrap();
        let name = FdName::new(file.as_fd());
        assert_eq!(name.as_cstr().to_str().unwrap(), file.as_raw_fd().to_string());
        // SAFETY: only its number is used.
        let big = unsafe { BorrowedFd::borrow_raw(i32::MAX) };
        assert_eq!(FdName::new(big).as_cstr().to_str().unwrap(), i32::MAX.to_string());
    }

    #[test]
    fn a_cut_directory_record_is_no_record() {
        let mut buf = Vec::new();
        buf.extend(7u64.to_ne_bytes());
        buf.extend(9u64.to_ne_bytes());
        buf.extend(24u16.to_ne_bytes());
        buf.extend([8, b'a', b'b', 0, 0, 0]);
        let (entry, rest) = next_entry(&buf).unwrap();
        assert_eq!((entry.ino, entry.next, entry.kind), (7, 9, 8));
        assert_eq!(entry.name, c"ab");
        assert!(rest.is_empty());
        for cut in 0..buf.len() {
            assert_eq!(next_entry(&buf[..cut]), None, "cut at {cut}");
        }
    }
}
