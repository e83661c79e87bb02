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
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

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

/// Puts the rootfs on top of `/`.
pub(crate) fn attach(tree: OwnedFd, propagation: Propagation) -> Done<Root> {
    if propagation.is_shared() {
        // Mounts below the container's root are not to appear where the rootfs lies.
        let wanted = MountAttr { propagation: propagation::PRIVATE, ..MountAttr::default() };
        mnt::set_attributes(tree.as_fd(), true, &wanted)
            .trying(|| "root.path: make its mounts private")?;
    }
    mnt::attach_to_root(tree.as_fd()).trying(|| "root.path: mount it")?;
    Ok(Root::new(tree))
}

/// What becomes the old root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// `pivot_root`, and the old root is taken off.
    Pivot,
    /// The mount already lies on top of `/`: `chroot` into it.
    Chroot,
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
        Switch::Chroot => nix::unistd::chroot(".").trying(|| "chroot")?,
    }
    nix::unistd::chdir("/").trying(|| "enter the new root")?;
    propagation.finish()
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
    fn slave_is_the_default() {
        let default = Propagation::parse(None).unwrap();
        assert!(!default.is_shared() && !default.given);
        assert_eq!(default.of_early_source(), Some(propagation::SLAVE));
    }
}
