//! How a process gets into a cgroup, and how a child that outlived its creator removes one.
//!
//! On v1 the process moves itself by writing `0` to `tasks`: this moves one thread, and a process
//! that was just cloned has one, so the kernel need not stop all forking on the machine as it does
//! for `cgroup.procs` (25 µs instead of 3 ms for the first, 4 µs for each other). On v2 there is
//! `CLONE_INTO_CGROUP`, which is as cheap.

use super::error::{Error, Result};
use super::fs;
use super::layout::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Descriptors by which a process joins.
#[derive(Debug, Default)]
pub struct Entry {
    /// `tasks` of every v1 hierarchy.
    v1: Vec<OwnedFd>,
    /// Directory of the v2 cgroup.
    v2: Option<OwnedFd>,
    v2_path: PathBuf,
    /// The process' creator has to let it in: it asks before it joins.
    by_creator: bool,
}

impl Entry {
    pub(super) fn open(paths: &BTreeMap<String, PathBuf>) -> Result<Entry> {
        let mut entry = Entry::default();
        let v2 = paths.get("");
        let v1: BTreeSet<&PathBuf> =
            paths.iter().filter(|(name, _)| !name.is_empty()).map(|(_, path)| path).collect();
        for directory in v1 {
            let file = directory.join("tasks");
            entry.v1.push(
                fs::open(&file, libc::O_WRONLY)
                    .map_err(|source| Error::io("open", file, source))?,
            );
        }
        if let Some(directory) = v2 {
            let fd = fs::open(directory, libc::O_RDONLY | libc::O_DIRECTORY);
            entry.v2 = Some(fd.map_err(|source| Error::io("open", directory, source))?);
            entry.v2_path = directory.clone();
        }
        Ok(entry)
    }

    /// Directory of the v2 cgroup, for `CLONE_INTO_CGROUP`.
    pub fn into(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(|fd| fd.as_fd())
    }

    /// For a clone without `CLONE_INTO_CGROUP`: makes [`Entry::join`] enter the v2 cgroup too.
    pub fn without_into(&mut self) -> Result<()> {
        if self.v2.take().is_some() {
            let file = self.v2_path.join("cgroup.procs");
            self.v1.push(
                fs::open(&file, libc::O_WRONLY)
                    .map_err(|source| Error::io("open", file, source))?,
            );
        }
        Ok(())
    }

    /// For a clone whose child may not go into the v2 cgroup by itself.
    pub fn by_creator(&mut self) {
        self.v2 = None;
        self.by_creator = true;
    }

    /// Whether the creator is to be asked.
    pub fn is_by_creator(&self) -> bool {
        self.by_creator
    }

    /// Moves the calling process, which must have one thread, into the v1 cgroups. Neither allocates
    /// nor takes locks: for a cloned child.
    pub fn join(&self) -> io::Result<()> {
        for fd in &self.v1 {
            fs::write_fd(fd, "0")?;
        }
        Ok(())
    }

    /// Whether [`Entry::join`] has anything to do.
    pub fn is_empty(&self) -> bool {
        self.v1.is_empty()
    }
}

/// Removes a cgroup by one descriptor and names below it: for a child that outlived its creator and
/// may see other mounts by then.
#[derive(Debug)]
pub struct Remover {
    base: OwnedFd,
    /// Where the creator was: files to write `0` to.
    home: Vec<CString>,
    /// What is removed, in order.
    directories: Vec<CString>,
}

impl Remover {
    pub(super) fn new(
        layout: &Layout,
        paths: &BTreeMap<String, PathBuf>,
        made: &[PathBuf],
    ) -> Result<Remover> {
        let base = layout.base();
        let relative = |path: &Path| {
            let inside = path.strip_prefix(&base).unwrap_or(path);
            let bytes = inside.as_os_str().as_bytes();
            CString::new(if bytes.is_empty() { b"." } else { bytes }).ok()
        };
        let fd = fs::open(&base, libc::O_PATH | libc::O_DIRECTORY)
            .map_err(|source| Error::io("open", &base, source))?;
        // Not `tasks`: whoever outlives its creator may have threads by then.
        let v1 = layout.v1.iter().map(|v1| v1.own.join("cgroup.procs"));
        let v2 = layout.v2.iter().map(|v2| v2.own.join("cgroup.procs"));
        let leaves: BTreeSet<&PathBuf> = paths.values().collect();
        let parents = made.iter().rev().filter(|path| !leaves.contains(path));
        Ok(Remover {
            base: fd,
            home: v1.chain(v2).filter_map(|path| relative(&path)).collect(),
            directories: leaves
                .iter()
                .copied()
                .chain(parents)
                .filter_map(|path| relative(path))
                .collect(),
        })
    }

    /// The descriptor it works with (to be kept open when others are closed).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// Moves the caller out and removes the directories; there is nobody left to report to. Neither
    /// allocates nor takes locks.
    pub fn remove(&self) {
        for file in &self.home {
            // SAFETY: the name is a C string that outlives the call.
            let fd = unsafe {
                libc::openat(self.base.as_raw_fd(), file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC)
            };
            if fd >= 0 {
                // SAFETY: `fd` was opened above and is closed once; the buffer is one byte long.
                unsafe {
                    libc::write(fd, c"0".as_ptr().cast(), 1);
                    libc::close(fd);
                }
            }
        }
        for directory in &self.directories {
            // SAFETY: the name is a C string that outlives the call.
            unsafe {
                libc::unlinkat(self.base.as_raw_fd(), directory.as_ptr(), libc::AT_REMOVEDIR)
            };
        }
    }
}
