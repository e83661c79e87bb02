//! Carrying out the planned mounts below the container's root, before `pivot_root`.

use super::idmap::IdMaps;
use super::options::{Attributes, Options, Parameter};
use super::plan::{Kind, Step, allowed_inside_proc};
use super::{cgroup, copy_up};
use crate::cgroups::Hierarchy;
use crate::error::{Done, Failure, Trying};
use crate::path::{Make, Root, c_path};
use crate::sys::mount::{self as mnt, MountAttr, attr};
use crate::sys::{self, resolve};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The longest value that fsconfig(2) takes.
const MAX_VALUE: usize = 255;

/// File systems whose superblock is shared with others: read-only is the mount's own affair.
const SHARED_SUPERBLOCKS: &[&str] =
    &["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "tmpfs", "binfmt_misc", "bpf"];

/// Binds whose sources were opened before the child was made (by step), and id mappings.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) trees: Vec<Option<OwnedFd>>,
    pub(crate) idmaps: IdMaps,
}

/// What the mounts need to know beside their plan.
pub(crate) struct Context<'a> {
    pub(crate) root: &'a Root,
    pub(crate) sources: &'a mut Sources,
    /// What a `cgroup` mount shows.
    pub(crate) hierarchies: &'a [Hierarchy],
    /// The container has a cgroup namespace of its own.
    pub(crate) cgroup_namespace: bool,
    /// SELinux label of new mounts.
    pub(crate) label: Option<&'a str>,
    /// The container is in a user namespace that is not the caller's.
    pub(crate) user_namespace: bool,
    /// Lets the parent set a source's options.
    pub(crate) by_parent: &'a dyn Fn(&Step, BorrowedFd<'_>) -> Done<()>,
    /// Read-only file systems that something may still have to be made in (`/dev`, mount points).
    pub(crate) late_read_only: Vec<OwnedFd>,
}

/// Opens the source of a bind: a detached tree with its attributes and mappings set. `cut`: the
/// propagation that it begins with, when it is taken from a mount namespace that it will leave.
pub(crate) fn open_source(step: &Step, idmaps: &IdMaps, cut: Option<u64>) -> Done<OwnedFd> {
    let Kind::Bind { source, .. } = &step.kind else {
        return Err(Failure::plain(format!("{}: not a bind", step.words())));
    };
    let path = c_path(source)?;
    let tree = mnt::clone_tree(sys::cwd(), &path, step.options.recursive)
        .trying(|| format!("{}: open the source", step.words()))?;
    if let Some(propagation) = cut {
        mnt::set_attributes(tree.as_fd(), true, &MountAttr { propagation, ..MountAttr::default() })
            .trying(|| format!("{}: cut it off", step.words()))?;
    }
    set_options(step, tree.as_fd(), idmaps)?;
    Ok(tree)
}

/// Sets attributes and mappings of a bind's source.
pub(crate) fn set_options(step: &Step, tree: BorrowedFd<'_>, idmaps: &IdMaps) -> Done<()> {
    finish(tree, &step.options, idmaps.of(step), step.maps_tree())
        .trying(|| format!("{}: set its options", step.words()))
}

/// Makes one mount read-only.
pub(crate) fn make_read_only(fd: BorrowedFd<'_>) -> sys::Result<()> {
    mnt::set_attributes(fd, false, &MountAttr { set: attr::RDONLY, ..MountAttr::default() })
}

/// The attributes that a mount has.
fn attributes_of(fd: BorrowedFd<'_>) -> sys::Result<u64> {
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    const PAIRS: [(u64, u64); 7] = [
        (libc::ST_RDONLY, attr::RDONLY),
        (libc::ST_NOSUID, attr::NOSUID),
        (libc::ST_NODEV, attr::NODEV),
        (libc::ST_NOEXEC, attr::NOEXEC),
        (libc::ST_NODIRATIME, attr::NODIRATIME),
        (libc::ST_NOATIME, attr::NOATIME),
        (ST_NOSYMFOLLOW, attr::NOSYMFOLLOW),
    ];
    let flags = sys::fs_flags(fd)?;
    let mut found = PAIRS.iter().filter(|(st, _)| flags & st != 0).fold(0, |all, (_, to)| all | to);
    if flags & (libc::ST_NOATIME | libc::ST_RELATIME) == 0 {
        found |= attr::STRICTATIME;
    }
    Ok(found)
}

/// Sets attributes, id mapping and propagation of a mount that `fd` is the root of.
fn finish(
    fd: BorrowedFd<'_>,
    options: &Options,
    idmap: Option<BorrowedFd<'_>>,
    map_tree: bool,
) -> sys::Result<()> {
    let apply = |attributes: Attributes, idmap: Option<BorrowedFd<'_>>, recursive: bool| {
        let mut wanted =
            MountAttr { set: attributes.set, clear: attributes.clear, ..MountAttr::default() };
        if let Some(userns) = idmap {
            wanted.set |= attr::IDMAP;
            wanted.userns_fd = userns.as_raw_fd() as u64;
        }
        if wanted == MountAttr::default() {
            return Ok(());
        }
        mnt::set_attributes(fd, recursive, &wanted)
    };
    // The tree first: an own attribute that says otherwise wins for the mount itself.
    apply(options.tree, idmap.filter(|_| map_tree), true)?;
    let own = idmap.filter(|_| !map_tree);
    let with_source = || {
        let wanted = options.of_bind(Some(attributes_of(fd)?)).ok_or(Errno::EPERM)?;
        apply(wanted, own, false)
    };
    if !options.bind {
        apply(options.attributes, own, false)?;
    } else if options.locked {
        with_source()?;
    } else if let Some(wanted) = options.of_bind(None) {
        match apply(wanted, own, false) {
            // The kernel locked them: we are in a user namespace ourselves.
            Err(Errno::EPERM) if own.is_none() => with_source()?,
            other => other?,
        }
    }
    for &(propagation, recursive) in &options.propagation {
        let wanted = MountAttr { propagation, ..MountAttr::default() };
        mnt::set_attributes(fd, recursive, &wanted)?;
    }
    Ok(())
}

impl Context<'_> {
    /// Carries out one step.
    pub(crate) fn apply(&mut self, step: &Step) -> Done<()> {
        match &step.kind {
            Kind::Bind { .. } => self.bind(step),
            Kind::New { fstype, source } => self.new_file_system(step, fstype, source),
            Kind::Cgroup => {
                let target = self.target(step, Make::Directory)?;
                cgroup::mount(self, step, target)
            }
            Kind::Remount => self.remount(step),
        }
    }

    fn bind(&mut self, step: &Step) -> Done<()> {
        let early = self.sources.trees.get_mut(step.index).and_then(Option::take);
        let tree = match (early, &step.kind) {
            (Some(tree), _) => tree,
            (None, Kind::Bind { inside: Some(path), .. }) => self.open_inside(step, path)?,
            (None, _) => open_source(step, &self.sources.idmaps, None)?,
        };
        let stat = sys::fstat(&tree).trying(|| step.words())?;
        let directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if step.destination == Path::new("/proc") {
            let magic = sys::fs_magic(&tree).trying(|| step.words())?;
            if magic != libc::PROC_SUPER_MAGIC {
                return Err(Failure::plain(format!(
                    "{}: /proc cannot be mounted over with what is not proc",
                    step.words()
                )));
            }
        }
        let make = if directory { Make::Directory } else { Make::File };
        let target = self.target(step, make)?;
        mnt::attach(tree.as_fd(), target.as_fd()).trying(|| step.words())
    }

    /// A source that is taken out of what was mounted in the root so far.
    fn open_inside(&mut self, step: &Step, path: &Path) -> Done<OwnedFd> {
        let place = self.root.open_path(path, libc::O_PATH);
        let tree = place
            .and_then(|place| mnt::clone_tree(place.as_fd(), c"", step.options.recursive))
            .trying(|| format!("{}: open the source", step.words()))?;
        if self.user_namespace && step.mappings.is_some() {
            // Mapping ids takes privileges over the file system itself.
            (self.by_parent)(step, tree.as_fd())?;
        } else {
            set_options(step, tree.as_fd(), &self.sources.idmaps)?;
        }
        Ok(tree)
    }

    /// The place that a step mounts on.
    fn target(&self, step: &Step, make: Make) -> Done<OwnedFd> {
        let target = self
            .root
            .open_or_make(&step.destination, make)
            .map_err(|failure| prefixed(step, failure))?;
        // By the descriptor, not by the text: a link in the rootfs may lead into /proc.
        let magic = sys::fs_magic(&target).trying(|| step.words())?;
        let proc = Path::new("/proc");
        if magic == libc::PROC_SUPER_MAGIC
            && step.destination != proc
            && !allowed_inside_proc(&step.destination)
            && !matches!(&step.kind, Kind::New { fstype, .. } if fstype == "proc")
        {
            return Err(Failure::plain(format!(
                "{}: {:?} cannot be mounted because it is inside /proc",
                step.words(),
                step.destination
            )));
        }
        Ok(target)
    }

    /// `proc` and `sysfs` go on real directories: a link there would move what is masked later.
    fn plain_directory(&self, step: &Step) -> Done<()> {
        let path = c_path(&step.destination)?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let confined = resolve::IN_ROOT | resolve::NO_MAGICLINKS;
        let ordinary = match sys::openat2(self.root.fd(), &path, flags, 0, confined) {
            Ok(fd) => {
                let stat = sys::fstat(&fd).trying(|| step.words())?;
                stat.st_mode & libc::S_IFMT == libc::S_IFDIR
            }
            Err(Errno::ENOENT) => true,
            Err(error) => return Err(error).trying(|| step.words()),
        };
        if ordinary {
            return Ok(());
        }
        Err(Failure::plain(format!("{}: must be mounted on ordinary directory", step.words())))
    }

    fn new_file_system(&mut self, step: &Step, fstype: &str, source: &str) -> Done<()> {
        if matches!(fstype, "proc" | "sysfs") {
            self.plain_directory(step)?;
        }
        let mut data = step.options.data.clone();
        let wants_mode = fstype == "tmpfs" && !data.iter().any(|(key, _)| key == "mode");
        // A tmpfs is like the directory that it covers; where there was none, it is the kernel's.
        let covers = wants_mode && self.root.open_path(&step.destination, libc::O_PATH).is_ok();
        let target = self.target(step, Make::Directory)?;
        if covers {
            let stat = sys::fstat(&target).trying(|| step.words())?;
            data.push(("mode".into(), Some(format!("{:o}", stat.st_mode & 0o7777))));
        }
        if let Some(label) = self.label.filter(|_| !matches!(fstype, "proc" | "sysfs")) {
            data.push(("context".into(), Some(label.to_owned())));
        }
        let long = |value: &Option<String>| value.as_ref().is_some_and(|v| v.len() > MAX_VALUE);
        if source.len() > MAX_VALUE || data.iter().any(|(_, value)| long(value)) {
            return self.with_mount(step, fstype, source, &data, target);
        }
        let new = NewFs { fstype, source, data: &data, options: &step.options };
        let mounted = match new.make() {
            Ok(mounted) => mounted,
            Err(failure)
                if fstype == "sysfs" && self.user_namespace && failure.errno == libc::EPERM =>
            {
                // Without a network namespace of its own a user namespace may not mount sysfs.
                mnt::clone_tree(sys::cwd(), c"/sys", true).trying(|| step.words())?
            }
            Err(failure) => return Err(prefixed(step, failure)),
        };
        if step.options.copy_up {
            copy_up::copy(target.as_fd(), mounted.as_fd())
                .map_err(|failure| prefixed(step, failure))?;
        }
        let mut options = step.options.clone();
        let late = fstype == "tmpfs" && options.read_only();
        if late {
            options.attributes.set &= !attr::RDONLY;
            options.tree.set &= !attr::RDONLY;
        }
        finish(mounted.as_fd(), &options, None, false).trying(|| step.words())?;
        mnt::attach(mounted.as_fd(), target.as_fd()).trying(|| step.words())?;
        if late {
            self.late_read_only.push(mounted);
        }
        Ok(())
    }

    /// `mount(2)` for values that fsconfig(2) does not take (long lists of overlay layers).
    fn with_mount(
        &self,
        step: &Step,
        fstype: &str,
        source: &str,
        data: &[Parameter],
        target: OwnedFd,
    ) -> Done<()> {
        let words: Vec<String> = data
            .iter()
            .map(|(key, value)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            })
            .collect();
        let path = format!("/proc/self/fd/{}", target.as_raw_fd());
        nix::mount::mount(
            Some(source),
            path.as_str(),
            Some(fstype),
            nix::mount::MsFlags::empty(),
            Some(words.join(",").as_str()),
        )
        .trying(|| step.words())?;
        let mounted =
            self.root.open_path(&step.destination, libc::O_PATH).trying(|| step.words())?;
        finish(mounted.as_fd(), &step.options, None, false).trying(|| step.words())
    }

    fn remount(&self, step: &Step) -> Done<()> {
        let target =
            self.root.open_path(&step.destination, libc::O_PATH).trying(|| step.words())?;
        let options = &step.options;
        if !options.data.is_empty() || !options.superblock.is_empty() {
            let mut words: Vec<String> =
                options.superblock.iter().map(|name| (*name).to_owned()).collect();
            words.extend(options.data.iter().map(|(key, value)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            }));
            let path = CString::new(format!("/proc/self/fd/{}", target.as_raw_fd()))
                .map_err(|_| Failure::plain(step.words()))?;
            let words = c_text(&words.join(","))?;
            mnt::remount(&path, 0, Some(&words)).trying(|| step.words())?;
        }
        finish(target.as_fd(), options, None, false).trying(|| step.words())
    }
}

/// A file system to be made.
pub(super) struct NewFs<'a> {
    pub(super) fstype: &'a str,
    pub(super) source: &'a str,
    pub(super) data: &'a [Parameter],
    pub(super) options: &'a Options,
}

impl NewFs<'_> {
    /// Makes it: a detached mount.
    pub(super) fn make(&self) -> Done<OwnedFd> {
        let fs = mnt::fsopen(&c_text(self.fstype)?)
            .trying(|| format!("file system type {:?}", self.fstype))?;
        let set = |key: &str, value: Option<&str>| -> Done<()> {
            let result = match value {
                Some(value) => mnt::fs_string(fs.as_fd(), &c_text(key)?, &c_text(value)?),
                None => mnt::fs_flag(fs.as_fd(), &c_text(key)?),
            };
            result.trying(|| {
                let value = value.map(|value| format!("={value}")).unwrap_or_default();
                self.explained(fs.as_fd(), format!("option {key}{value}"))
            })
        };
        set("source", Some(self.source))?;
        for name in &self.options.superblock {
            set(name, None)?;
        }
        if self.options.read_only() && !SHARED_SUPERBLOCKS.contains(&self.fstype) {
            set("ro", None)?;
        }
        for (key, value) in self.data {
            set(key, value.as_deref())?;
        }
        mnt::fs_create(fs.as_fd()).trying(|| self.explained(fs.as_fd(), "create".into()))?;
        mnt::fsmount(fs.as_fd(), 0).trying(|| self.explained(fs.as_fd(), "mount".into()))
    }

    fn explained(&self, fs: BorrowedFd<'_>, what: String) -> String {
        match mnt::fs_log(fs) {
            log if log.is_empty() => what,
            log => format!("{what} ({log})"),
        }
    }
}

pub(super) fn c_text(text: &str) -> Done<CString> {
    CString::new(text).map_err(|_| Failure::plain(format!("{text:?} holds a NUL")))
}

pub(super) fn prefixed(step: &Step, failure: Failure) -> Failure {
    Failure { what: format!("{}: {}", step.words(), failure.what), errno: failure.errno }
}

/// Attaches a detached mount onto a name directly below a mount that was just made.
pub(super) fn attach_below(
    mounted: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &CStr,
) -> sys::Result<()> {
    let confined = resolve::BENEATH | resolve::NO_SYMLINKS;
    let target = sys::openat2(parent, name, libc::O_PATH, 0, confined)?;
    mnt::attach(mounted, target.as_fd())
}
