//! The container's root: prepared as a mount of its own, later the root of everything.
//!
//! The rootfs becomes a detached mount (`open_tree`) that is put on top of `/` of the container's
//! mount namespace: no path has to be looked up for it, and where the rootfs lies does not matter.
//! Until `pivot_root` the caller's files can still be reached by absolute paths, and the
//! container's by the mount's descriptor. Sources: pivot_root(2), mount_namespaces(7),
//! "Rootfs Mount Propagation", "Masked Paths" and "Readonly Paths" of the runtime specification.

use crate::error::{Done, Failure, Trying};
use crate::path::{Root, c_path};
use crate::sys::mount::{self as mnt, MountAttr, attr, propagation};
use crate::sys::{self};
use crate::{Error, Result};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `linux.rootfsPropagation`, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Propagation {
    kind: u64,
    recursive: bool,
    /// It was given: the root gets it in the end.
    given: bool,
}

impl Propagation {
    pub(crate) fn parse(text: Option<&str>) -> Result<Propagation> {
        let (kind, recursive) = match text.unwrap_or_default() {
            "" => {
                return Ok(Propagation { kind: propagation::SLAVE, recursive: true, given: false });
            }
            "shared" => (propagation::SHARED, false),
            "rshared" => (propagation::SHARED, true),
            "slave" => (propagation::SLAVE, false),
            "rslave" => (propagation::SLAVE, true),
            "private" => (propagation::PRIVATE, false),
            "rprivate" => (propagation::PRIVATE, true),
            "unbindable" => (propagation::UNBINDABLE, false),
            "runbindable" => (propagation::UNBINDABLE, true),
            other => {
                return Err(Error::value(
                    "linux.rootfsPropagation",
                    format!("{other:?} is no propagation type"),
                ));
            }
        };
        Ok(Propagation { kind, recursive, given: true })
    }

    /// Whether mounts go on being shared with the caller: sources must be taken before anything
    /// is cut off.
    pub(crate) fn is_shared(self) -> bool {
        self.kind == propagation::SHARED
    }

    /// Cuts the new mount namespace off from the caller's.
    pub(crate) fn isolate(self) -> Done<()> {
        let (kind, recursive) = match self.kind {
            propagation::SLAVE => (propagation::SLAVE, true),
            // Only the mount that the root is put on, or it would appear outside too.
            propagation::SHARED => (propagation::PRIVATE, false),
            _ => (propagation::PRIVATE, true),
        };
        let wanted = MountAttr { propagation: kind, ..MountAttr::default() };
        mnt::set_attributes_at(sys::cwd(), c"/", recursive, &wanted)
            .trying(|| "linux.rootfsPropagation: change the propagation of /")
    }

    /// Propagation of a source that was opened outside, before anything was cut off.
    pub(crate) fn of_early_source(self) -> Option<u64> {
        match self.kind {
            propagation::SHARED => None,
            propagation::SLAVE => Some(propagation::SLAVE),
            _ => Some(propagation::PRIVATE),
        }
    }

    fn finish(self) -> Done<()> {
        if !self.given || self.kind == propagation::PRIVATE {
            return Ok(());
        }
        let wanted = MountAttr { propagation: self.kind, ..MountAttr::default() };
        mnt::set_attributes_at(sys::cwd(), c"/", self.recursive, &wanted)
            .trying(|| "linux.rootfsPropagation")
    }
}

/// Opens the rootfs as a detached mount. `cut`: the propagation that it begins with, when it is
/// taken from a mount namespace that it will leave.
pub(crate) fn open_tree(path: &Path, cut: Option<u64>) -> Done<OwnedFd> {
    let c = c_path(path)?;
    let what = || format!("root.path {path:?}");
    let tree = mnt::clone_tree(sys::cwd(), &c, true).trying(what)?;
    let stat = sys::fstat(&tree).trying(what)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(Errno::ENOTDIR).trying(what);
    }
    if let Some(propagation) = cut {
        mnt::set_attributes(tree.as_fd(), true, &MountAttr { propagation, ..MountAttr::default() })
            .trying(what)?;
    }
    Ok(tree)
}

/// Puts the rootfs on top of `/`, or, for hooks that enter the container's mount namespace before
/// its root is changed, where it lies (`place`).
pub(crate) fn attach(tree: OwnedFd, propagation: Propagation, place: Option<&Path>) -> Done<Root> {
    if propagation.is_shared() {
        // Mounts below the container's root are not to appear where the rootfs lies.
        let wanted = MountAttr { propagation: propagation::PRIVATE, ..MountAttr::default() };
        mnt::set_attributes(tree.as_fd(), true, &wanted)
            .trying(|| "root.path: make its mounts private")?;
    }
    // What is mounted below a shared mount would be seen outside; and an ordinary user's rootfs may
    // lie where the container's root cannot go.
    let place = place.filter(|_| !propagation.is_shared()).and_then(|place| {
        sys::open(&c_path(place).ok()?, libc::O_PATH | libc::O_DIRECTORY, 0).ok()
    });
    match place {
        Some(place) => mnt::attach(tree.as_fd(), place.as_fd()),
        None => mnt::attach_to_root(tree.as_fd()),
    }
    .trying(|| "root.path: mount it")?;
    Ok(Root::new(tree))
}

/// The mount on the rootfs of a container that has no mount namespace of its own: all its other
/// mounts lie below. It would outlive the container, so it is remembered and taken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRoot {
    path: PathBuf,
    mount: u64,
}

impl SharedRoot {
    /// Puts a private copy of the rootfs' mount on itself. `about_to` is told beforehand.
    pub(crate) fn make(
        rootfs: &Path,
        about_to: &dyn Fn(&CStr, u64),
    ) -> Done<(SharedRoot, OwnedFd)> {
        let what = || format!("root.path {rootfs:?}: mount it on itself");
        let path = rootfs
            .canonicalize()
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
            .trying(what)?;
        let tree = open_tree(&path, Some(propagation::PRIVATE))?;
        let place = c_path(&path)?;
        let target = sys::open(&place, libc::O_PATH | libc::O_DIRECTORY, 0).trying(what)?;
        let mount = mnt::id(tree.as_fd(), c"").trying(what)?;
        about_to(&place, mount);
        mnt::attach(tree.as_fd(), target.as_fd()).trying(what)?;
        Ok((SharedRoot { path, mount }, tree))
    }

    /// Takes it off with all that lies below. One that is gone is no error.
    pub(crate) fn detach(&self) -> Done<()> {
        detach_mount(&c_path(&self.path)?, self.mount).trying(|| format!("unmount {:?}", self.path))
    }
}

/// Takes this mount off its place, if it is what is there. Neither allocates nor takes locks.
pub(crate) fn detach_mount(path: &CStr, mount: u64) -> sys::Result<()> {
    if mnt::id(sys::cwd(), path) != Ok(mount) {
        return Ok(());
    }
    // SAFETY: the path is NUL-terminated.
    sys::check(
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }.into(),
    )
    .map(drop)
}

/// [`SharedRoot`] until the container is kept.
#[derive(Debug)]
pub(crate) struct Making(pub(crate) Option<SharedRoot>);

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(Err(failure)) = self.0.as_ref().map(SharedRoot::detach) {
            tracing::warn!("{failure}");
        }
    }
}

/// What becomes the old root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// `pivot_root`, and the old root is taken off.
    Pivot,
    /// The mount already lies on top of `/`: `chroot` into it.
    Chroot,
    /// `chroot`, in the caller's mount namespace.
    Shared,
}

/// Makes the root the root.
pub(crate) fn enter(root: &Root, switch: Switch, propagation: Propagation) -> Done<()> {
    nix::unistd::fchdir(root.fd()).trying(|| "enter the root")?;
    match switch {
        Switch::Pivot => {
            let old = if propagation.is_shared() {
                let flags = libc::O_PATH | libc::O_DIRECTORY;
                Some(sys::open(c"/", flags, 0).trying(|| "open the old root")?)
            } else {
                None
            };
            mnt::pivot_root_here().trying(|| "pivot_root")?;
            if let Some(old) = old {
                // Taking the old root off is not to be seen outside. By its descriptor: "." is the
                // new root here, whose shared mounts are to stay so.
                let wanted = MountAttr { propagation: propagation::SLAVE, ..MountAttr::default() };
                mnt::set_attributes(old.as_fd(), true, &wanted)
                    .trying(|| "cut the old root off")?;
            }
            mnt::detach_here().trying(|| "unmount the old root")?;
        }
        Switch::Chroot => {
            hide_kernel_files()?;
            nix::unistd::chroot(".").trying(|| "chroot")?;
        }
        Switch::Shared => nix::unistd::chroot(".").trying(|| "chroot")?,
    }
    nix::unistd::chdir("/").trying(|| "enter the new root")?;
    propagation.finish()
}

/// Takes the caller's `proc` and `sysfs` out of the mount namespace that is left behind by a mere
/// `chroot`: whoever makes a user namespace in the container may mount those two anew as long as
/// they are to be seen unmasked anywhere in it.
fn hide_kernel_files() -> Done<()> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        .trying(|| "read /proc/self/mountinfo")?;
    // From the last mounted to the first: one may lie in another.
    for line in text.lines().rev() {
        let Some(place) = kernel_files(line) else { continue };
        let what = || format!("take {place:?} away");
        let path = c_path(&place)?;
        let wanted = MountAttr { propagation: propagation::PRIVATE, ..MountAttr::default() };
        // Not to be seen outside.
        let _ = mnt::set_attributes_at(sys::cwd(), &path, true, &wanted);
        // SAFETY: the path is NUL-terminated.
        let gone = sys::check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }.into());
        match gone {
            Ok(_) | Err(Errno::ENOENT) => {}
            // Locked by a user namespace: then it is covered.
            Err(Errno::EINVAL | Errno::EPERM) => {
                let Ok(target) = sys::open(&path, libc::O_PATH | libc::O_DIRECTORY, 0) else {
                    continue;
                };
                let cover = empty_directory().trying(what)?;
                mnt::attach(cover.as_fd(), target.as_fd()).trying(what)?;
            }
            Err(error) => return Err(error).trying(what),
        }
    }
    Ok(())
}

/// Where a line of mountinfo (proc_pid_mountinfo(5)) has a `proc` or `sysfs`.
fn kernel_files(line: &str) -> Option<PathBuf> {
    let (before, after) = line.split_once(" - ")?;
    let kind = after.split(' ').next()?;
    if !matches!(kind, "proc" | "sysfs") {
        return None;
    }
    let place = before.split(' ').nth(4)?;
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(place.to_owned(), |text, (code, letter)| text.replace(code, letter));
    Some(PathBuf::from(plain))
}

/// Makes the root mount read-only (`root.readonly`).
pub(crate) fn make_read_only(root: &Root) -> Done<()> {
    let wanted = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    mnt::set_attributes(root.fd(), false, &wanted).trying(|| "root.readonly")
}

/// Hides paths: files behind `/dev/null`, directories behind an empty read-only tmpfs.
///
/// The null device is the caller's own, opened before the switch of roots and looked at: what the
/// image has at `/dev/null` may be anything.
pub(crate) fn mask(root: &Root, paths: &[String]) -> Done<()> {
    let mut empty: Option<OwnedFd> = None;
    let mut seen = HashSet::new();
    for path in paths {
        if !seen.insert(path) {
            continue;
        }
        let what = || format!("linux.maskedPaths {path:?}");
        let Some(target) = existing(root, path).trying(what)? else { continue };
        let stat = sys::fstat(&target).trying(what)?;
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            let cover = match &empty {
                // A mount can only be copied once it is attached.
                Some(first) => mnt::clone_tree(first.as_fd(), c"", false).trying(what)?,
                None => empty_directory().trying(what)?,
            };
            mnt::attach(cover.as_fd(), target.as_fd()).trying(what)?;
            empty.get_or_insert(cover);
        } else {
            let cover = null().map_err(|failure| Failure {
                what: format!("{}: {}", what(), failure.what),
                errno: failure.errno,
            })?;
            mnt::attach(cover.as_fd(), target.as_fd()).trying(what)?;
        }
    }
    Ok(())
}

fn empty_directory() -> sys::Result<OwnedFd> {
    let fs = mnt::fsopen(c"tmpfs")?;
    mnt::fs_string(fs.as_fd(), c"mode", c"755")?;
    mnt::fs_string(fs.as_fd(), c"nr_blocks", c"1")?;
    mnt::fs_string(fs.as_fd(), c"nr_inodes", c"1")?;
    mnt::fs_flag(fs.as_fd(), c"ro")?;
    mnt::fs_create(fs.as_fd())?;
    mnt::fsmount(fs.as_fd(), attr::RDONLY)
}

/// A detached mount of the caller's null device.
fn null() -> Done<OwnedFd> {
    let tree = mnt::clone_tree(sys::cwd(), c"/dev/null", false).trying(|| "/dev/null")?;
    let stat = sys::fstat(&tree).trying(|| "/dev/null")?;
    let device = stat.st_mode & libc::S_IFMT == libc::S_IFCHR
        && stat.st_rdev == nix::sys::stat::makedev(1, 3);
    if device { Ok(tree) } else { Err(Failure::plain("/dev/null is not the null device")) }
}

/// Makes paths read-only, each with all that is mounted below it.
pub(crate) fn protect(root: &Root, paths: &[String]) -> Done<()> {
    for path in paths {
        let what = || format!("linux.readonlyPaths {path:?}");
        let Some(target) = existing(root, path).trying(what)? else { continue };
        let tree = mnt::clone_tree(target.as_fd(), c"", true).trying(what)?;
        let wanted = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
        mnt::set_attributes(tree.as_fd(), true, &wanted).trying(what)?;
        mnt::attach(tree.as_fd(), target.as_fd()).trying(what)?;
    }
    Ok(())
}

/// Opens what is at a path of the container; nothing there is no error.
fn existing(root: &Root, path: &str) -> sys::Result<Option<OwnedFd>> {
    match root.open_path(Path::new(path), libc::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_propagation_types_are_known() {
        for name in [
            "",
            "shared",
            "rshared",
            "slave",
            "rslave",
            "private",
            "rprivate",
            "unbindable",
            "runbindable",
        ] {
            assert!(Propagation::parse(Some(name)).is_ok(), "{name}");
        }
        assert!(Propagation::parse(Some("both")).is_err());
    }

    #[test]
    fn lines_of_mountinfo_tell_where_the_kernels_files_are() {
        let line = "22 27 0:21 / /a\\040b rw,relatime shared:5 - proc proc rw";
        assert_eq!(kernel_files(line), Some(PathBuf::from("/a b")));
        let line = "24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,mode=755";
        assert_eq!(kernel_files(line), None);
        assert_eq!(kernel_files("nothing"), None);
    }

    #[test]
    fn slave_is_the_default() {
        let default = Propagation::parse(None).unwrap();
        assert!(!default.is_shared() && !default.given);
        assert_eq!(default.of_early_source(), Some(propagation::SLAVE));
    }
}
