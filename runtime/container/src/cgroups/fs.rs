//! Directories and small files of a hierarchy, with errors that name them.

use super::error::{Error, Result};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest file read whole (a `cgroup.procs` of a very large container is the largest).
const MAX_FILE: usize = 64 << 20;
/// More than any file of one line has, and most others.
const CHUNK: usize = 8 << 10;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// `open(2)`, close-on-exec.
pub(super) fn open(path: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: `path` is a C string that outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One `write(2)`: a control file takes a value whole or not at all.
pub(super) fn write_fd(fd: &OwnedFd, value: &str) -> io::Result<()> {
    // SAFETY: pointer and length are those of `value`.
    let done = unsafe { libc::write(fd.as_raw_fd(), value.as_ptr().cast(), value.len()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens, writes, closes.
pub(super) fn put(path: &Path, value: &str) -> io::Result<()> {
    write_fd(&open(path, libc::O_WRONLY)?, value)
}

/// Opens, writes, closes; the error names the file and the value.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    put(path, value).map_err(|source| Error::io(format!("write {value:?} to"), path, source))
}

/// The whole of a file, in few reads.
pub(super) fn read_raw(path: &Path) -> io::Result<String> {
    let fd = open(path, libc::O_RDONLY)?;
    let mut out = Vec::new();
    loop {
        let at = out.len();
        out.resize(at + CHUNK, 0);
        let count = read_fd(&fd, &mut out[at..])?;
        out.truncate(at + count);
        if count == 0 {
            break;
        }
        if out.len() > MAX_FILE {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
    }
    String::from_utf8(out).map_err(|_| io::Error::from_raw_os_error(libc::EILSEQ))
}

fn read_fd(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of `buffer`.
    let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// The one line of a file that has one, by one read: the kernel gives it whole.
pub(super) fn line(path: &Path) -> Result<String> {
    let failed = |source| Error::io("read", path, source);
    let fd = open(path, libc::O_RDONLY).map_err(failed)?;
    let mut buffer = [0; CHUNK];
    let count = read_fd(&fd, &mut buffer).map_err(failed)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).trim().to_owned())
}

/// The whole of a file; the error names it.
pub(super) fn read(path: &Path) -> Result<String> {
    read_raw(path).map_err(|source| Error::io("read", path, source))
}

/// A file's one number; `max` is the largest.
pub(super) fn number(path: &Path) -> Result<u64> {
    let text = read(path)?;
    parse_number(text.trim())
        .ok_or_else(|| Error::Parse { path: path.to_path_buf(), content: text })
}

/// Parses a number of the kernel's; `max` and negative ones are the largest (no limit).
pub(super) fn parse_number(text: &str) -> Option<u64> {
    match text {
        "max" => Some(u64::MAX),
        text if text.starts_with('-') => text.parse::<i64>().ok().map(|_| u64::MAX),
        text => text.parse().ok(),
    }
}

/// `mkdir(2)`; tells whether it was made now.
pub(super) fn mkdir(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    // SAFETY: `path` is a C string that outlives the call.
    if unsafe { libc::mkdir(path.as_ptr(), 0o755) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        error => Err(error),
    }
}

/// `rmdir(2)`; a directory that is gone is as good as removed.
pub(super) fn rmdir(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: `path` is a C string that outlives the call.
    if unsafe { libc::rmdir(path.as_ptr()) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        error => Err(error),
    }
}

/// The directories below `path`, the deepest first, `path` itself last. Gone ones are left out.
pub(super) fn tree(path: &Path) -> Vec<PathBuf> {
    fn walk(path: &Path, depth: u32, out: &mut Vec<PathBuf>) {
        // The kernel's own bound is far lower in practice; this one keeps our stack.
        if depth < 512
            && let Ok(entries) = std::fs::read_dir(path)
        {
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(&entry.path(), depth + 1, out);
                }
            }
        }
        out.push(path.to_path_buf());
    }
    let mut out = Vec::new();
    walk(path, 0, &mut out);
    out
}

/// Removes a cgroup and what is nested in it, waiting while processes that were killed still leave.
pub(super) fn remove(path: &Path, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        // The usual case is one call; only a cgroup that is not empty is looked into.
        let source = match rmdir(path) {
            Ok(()) => return Ok(()),
            Err(source) => source,
        };
        if source.raw_os_error() != Some(libc::EBUSY)
            && source.raw_os_error() != Some(libc::ENOTEMPTY)
        {
            return Err(Error::io("remove", path, source));
        }
        let nested = tree(path);
        if nested.len() > 1 {
            for directory in &nested {
                let _ = rmdir(directory);
            }
            if !path.exists() {
                return Ok(());
            }
        }
        if start.elapsed() >= patience {
            return Err(Error::io("remove", path, source));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// `key value` lines.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, parse_number(value.trim())?))
    })
}

/// Removes a leaf with everything nested in it, or just tries to remove an (empty) parent.
pub(super) fn remove_if_ours(path: &Path, leaf: bool, patience: Duration) -> Result<()> {
    if leaf {
        return remove(path, patience);
    }
    let _ = rmdir(path);
    Ok(())
}
