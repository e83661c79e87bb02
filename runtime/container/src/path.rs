//! Paths inside the container's root, by descriptor.
//!
//! A rootfs is hostile: any component may be a symbolic link, and another process may change it
//! meanwhile. So a path is never used twice: it is resolved once, by the kernel, with
//! `openat2(RESOLVE_IN_ROOT)`, and what follows works on the descriptor.

use crate::error::{Done, Failure, Trying};
use crate::sys::{self, resolve};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// The root directory of a container.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// What is to be made where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Directory,
    File,
}

/// A path as the kernel takes it. Paths of `config.json` hold no NUL: that was checked on loading.
pub(crate) fn c_path(path: &Path) -> Done<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Failure::plain(format!("path {path:?} holds a NUL")))
}

impl Root {
    pub(crate) fn new(fd: OwnedFd) -> Root {
        Root { fd }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a path as seen from inside.
    pub(crate) fn open(&self, path: &CStr, flags: i32) -> sys::Result<OwnedFd> {
        let path = if path.is_empty() { c"." } else { path };
        sys::openat2(self.fd(), path, flags, 0, resolve::IN_ROOT | resolve::NO_MAGICLINKS)
    }

    /// The same for a path that is not a C string yet.
    pub(crate) fn open_path(&self, path: &Path, flags: i32) -> sys::Result<OwnedFd> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        self.open(&path, flags)
    }

    /// Opens a path of already resolved components: a symbolic link in it is an error.
    fn open_plain(&self, path: &Path, flags: i32) -> sys::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        sys::openat2(self.fd(), &path, flags, 0, resolve::IN_ROOT | resolve::NO_SYMLINKS)
    }

    /// An `O_PATH` descriptor of `path`; what is missing is made (directories with mode 0755,
    /// symbolic links that dangle are followed inside the root).
    pub(crate) fn open_or_make(&self, path: &Path, make: Make) -> Done<OwnedFd> {
        match self.open_path(path, libc::O_PATH) {
            Ok(fd) => Ok(fd),
            Err(Errno::ENOENT) => self.make(path, make),
            Err(error) => Err(error).trying(|| format!("open {path:?} in the root file system")),
        }
    }

    fn make(&self, path: &Path, make: Make) -> Done<OwnedFd> {
        let mut done = PathBuf::new();
        let mut links = 0;
        let mut todo: VecDeque<OsString> = components(path);
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            let parent = self
                .open_plain(&done, libc::O_PATH | libc::O_DIRECTORY)
                .trying(|| format!("open {done:?} in the root file system"))?;
            match link_target(parent.as_fd(), &name) {
                Ok(Some(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP).trying(|| format!("resolve {path:?}"));
                    }
                    if target.is_absolute() {
                        done.clear();
                    }
                    for component in components(&target).into_iter().rev() {
                        todo.push_front(component);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(Errno::ENOENT) => {
                    let last = todo.iter().all(|rest| rest == ".");
                    let kind = if last { make } else { Make::Directory };
                    self.make_one(parent.as_fd(), &name, kind).trying(|| {
                        format!("create {:?} in the root file system", done.join(&name))
                    })?;
                }
                Err(error) => {
                    return Err(error).trying(|| format!("look at {:?}", done.join(&name)));
                }
            }
            done.push(name);
        }
        self.open_plain(&done, libc::O_PATH)
            .trying(|| format!("open {path:?} in the root file system"))
    }

    fn make_one(&self, parent: BorrowedFd<'_>, name: &OsStr, make: Make) -> sys::Result<()> {
        use nix::sys::stat::Mode;
        let result = match make {
            Make::Directory => {
                nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755))
            }
            Make::File => {
                let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
                sys::openat(parent, &name, flags, 0o644).map(drop)
            }
        };
        // Another container that shares the rootfs was faster: what it made is looked at anew.
        if result == Err(Errno::EEXIST) { Ok(()) } else { result }
    }
}

/// Components from the root on; `.` and the root itself dropped.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The target, if `name` is a symbolic link; `None`, if it is something else.
fn link_target(parent: BorrowedFd<'_>, name: &OsStr) -> sys::Result<Option<PathBuf>> {
    match nix::fcntl::readlinkat(parent, name) {
        Ok(target) => Ok(Some(PathBuf::from(target))),
        Err(Errno::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes `.` and `..` by text and makes the path absolute: `a/../b` is `/b`.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for name in components(path) {
        if name == ".." {
            cleaned.pop();
        } else {
            cleaned.push(name);
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir =
                std::env::temp_dir().join(format!("container-path-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }

        fn root(&self) -> Root {
            Root::new(std::fs::File::open(&self.0).unwrap().into())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_missing_is_made_below_the_root() {
        let scratch = Scratch::new("make");
        let root = scratch.root();
        root.open_or_make(Path::new("/a/b/../c"), Make::Directory).unwrap();
        root.open_or_make(Path::new("/x/file"), Make::File).unwrap();
        assert!(scratch.0.join("a/c").is_dir());
        assert!(scratch.0.join("a/b").is_dir());
        assert!(scratch.0.join("x/file").is_file());
    }

    #[test]
    fn an_absolute_dangling_link_is_followed_inside() {
        let scratch = Scratch::new("dangling");
        symlink("/etc/container-path-test/deep", scratch.0.join("link")).unwrap();
        scratch.root().open_or_make(Path::new("/link/dir"), Make::Directory).unwrap();
        assert!(scratch.0.join("etc/container-path-test/deep/dir").is_dir());
        assert!(!Path::new("/etc/container-path-test").exists());
    }

    #[test]
    fn dots_do_not_climb_out() {
        let scratch = Scratch::new("dots");
        symlink("../../../../../../../tmp/container-path-out", scratch.0.join("up")).unwrap();
        scratch.root().open_or_make(Path::new("/up/in"), Make::Directory).unwrap();
        assert!(scratch.0.join("tmp/container-path-out/in").is_dir());
        assert!(!Path::new("/tmp/container-path-out").exists());
    }

    #[test]
    fn a_loop_ends() {
        let scratch = Scratch::new("loop");
        symlink("two", scratch.0.join("one")).unwrap();
        symlink("one", scratch.0.join("two")).unwrap();
        let error = scratch.root().open_or_make(Path::new("/one/x"), Make::Directory).unwrap_err();
        assert_eq!(error.errno, libc::ELOOP);
    }

    #[test]
    fn cleaning_is_by_text() {
        assert_eq!(clean(Path::new("a/./b/../c")), Path::new("/a/c"));
        assert_eq!(clean(Path::new("../../x")), Path::new("/x"));
        assert_eq!(clean(Path::new("/")), Path::new("/"));
    }
}
