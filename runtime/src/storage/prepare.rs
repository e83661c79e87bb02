//! Carrying out the host's part of a storage plan.
//!
//! Runs in the monitor, in a mount namespace of its own: whatever is mounted here is seen by
//! nobody else and is gone with the process, however that ends. The new mount API (open_tree(2),
//! mount_setattr(2), move_mount(2)) is used throughout: a source is opened once, and what was
//! opened is what is mounted, whatever becomes of its path meanwhile.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::fstatfs;
use thiserror::Error;

use super::plan::{HostStep, Plan, ReadOnly, What};
use hull_agent::link::{BINDS, ROOTFS};

/// File systems that show the host's kernel: their files mean nothing behind the wall, and some
/// of them are ways around it.
const OF_THE_HOST: [(i64, &str); 8] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x1cd1, "devpts"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x1980_0202, "mqueue"),
];

/// Why the tree cannot be prepared.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call failed.
    #[error("{field}: {operation} {}: {source}", path.display())]
    System {
        /// The field of config.json that asked for it.
        field: String,
        /// The system call.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that is an end of something on the host.
    #[error("{field}: {} is {what} of the host, which means nothing in a microVM", path.display())]
    OfTheHost {
        /// The field of config.json.
        field: String,
        /// The source.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// The root is no directory.
    #[error("{field}: {} is not a directory", path.display())]
    NotADirectory {
        /// The field of config.json.
        field: String,
        /// The source.
        path: PathBuf,
    },
}

/// The prepared tree.
#[derive(Debug)]
pub struct Tree {
    /// Its root, an O_PATH descriptor.
    pub root: OwnedFd,
    readonly: bool,
}

impl Tree {
    /// Called when the guest has made its mount points: a read-only root becomes so on the host
    /// too, so that not even the guest's kernel can write to it.
    pub fn seal(&self) -> io::Result<()> {
        if !self.readonly {
            return Ok(());
        }
        let path = c"rootfs";
        debug_assert_eq!(path.to_bytes(), ROOTFS.as_bytes());
        let attr = Attr { set: libc::MOUNT_ATTR_RDONLY, ..Attr::default() };
        set_attributes(self.root.as_fd(), path, 0, &attr)
    }
}

/// Makes the tree on `base`, an existing directory that it covers from now on. The caller has
/// a mount namespace of its own.
pub fn prepare(plan: &Plan, base: &Path) -> Result<Tree, Error> {
    let failed = |operation: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: nix::Error| Error::System {
            field: "root".to_owned(),
            operation,
            path,
            source: source.into(),
        }
    };
    let data = Some("mode=0755,size=1m");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("hull"), base, Some("tmpfs"), flags, data).map_err(failed("mount", base))?;
    let root = nix::fcntl::open(
        base,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed("open", base))?;
    mkdirat(&root, BINDS, Mode::from_bits_truncate(0o755)).map_err(failed("mkdir", base))?;
    for step in &plan.host {
        carry_out(step, &root)?;
    }
    Ok(Tree { root, readonly: plan.readonly })
}

fn carry_out(step: &HostStep, root: &OwnedFd) -> Result<(), Error> {
    match &step.what {
        What::Bind { source, recursive, readonly, follow, idmap } => {
            let failed = |operation| failure(step, operation, source);
            let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
            if *recursive {
                flags |= libc::AT_RECURSIVE as u32;
            }
            let tree = open_tree(source, flags).map_err(failed("open_tree"))?;
            let directory = inspect(step, source, &tree)?;
            if step.target == Path::new(ROOTFS) && !directory {
                let (field, path) = (step.field.clone(), source.clone());
                return Err(Error::NotADirectory { field, path });
            }
            if !follow {
                let attr = Attr { propagation: libc::MS_PRIVATE, ..Attr::default() };
                set_attributes(tree.as_fd(), c"", libc::AT_RECURSIVE, &attr)
                    .map_err(failed("mount_setattr"))?;
            }
            if let Some(map) = idmap {
                let namespace = super::idmap::namespace(&map.uids, &map.gids)
                    .map_err(failed("user namespace for"))?;
                let attr = Attr {
                    set: libc::MOUNT_ATTR_IDMAP,
                    userns: namespace.as_raw_fd() as u64,
                    ..Attr::default()
                };
                let depth = if map.recursive { libc::AT_RECURSIVE } else { 0 };
                set_attributes(tree.as_fd(), c"", depth, &attr).map_err(failed("mount_setattr"))?;
            }
            let depth = match readonly {
                ReadOnly::No => None,
                ReadOnly::Top => Some(0),
                ReadOnly::Recursive => Some(libc::AT_RECURSIVE),
            };
            if let Some(depth) = depth {
                let attr = Attr { set: libc::MOUNT_ATTR_RDONLY, ..Attr::default() };
                set_attributes(tree.as_fd(), c"", depth, &attr).map_err(failed("mount_setattr"))?;
            }
            place(step, root, directory)?;
            move_mount(tree.as_fd(), root.as_fd(), &step.target).map_err(failed("move_mount"))
        }
        What::Overlay { data, readonly } => {
            place(step, root, true)?;
            let target =
                PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())).join(&step.target);
            let flags = if *readonly { MsFlags::MS_RDONLY } else { MsFlags::empty() };
            mount(Some("overlay"), &target, Some("overlay"), flags, Some(data.as_str()))
                .map_err(|source| failure(step, "mount overlay on", &target)(source.into()))
        }
    }
}

fn failure(
    step: &HostStep,
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> Error + use<> {
    let (field, path) = (step.field.clone(), path.to_owned());
    move |source| Error::System { field, operation, path, source }
}

/// Looks at what was opened; says whether it is a directory.
fn inspect(step: &HostStep, source: &Path, tree: &OwnedFd) -> Result<bool, Error> {
    let stat = nix::sys::stat::fstat(tree).map_err(|e| failure(step, "stat", source)(e.into()))?;
    let refuse = |what: &str| {
        let (field, path) = (step.field.clone(), source.to_owned());
        Err(Error::OfTheHost { field, path, what: what.to_owned() })
    };
    let kind = stat.st_mode & libc::S_IFMT;
    match kind {
        libc::S_IFSOCK => return refuse("a socket"),
        libc::S_IFIFO => return refuse("a FIFO"),
        _ => {}
    }
    let fs = fstatfs(tree).map_err(|e| failure(step, "statfs", source)(e.into()))?;
    // A device node in devpts or elsewhere is a number, and the guest has its own of the number.
    if kind != libc::S_IFCHR
        && kind != libc::S_IFBLK
        && let Some((_, name)) =
            OF_THE_HOST.iter().find(|(magic, _)| *magic == fs.filesystem_type().0)
    {
        return refuse(&format!("part of the {name}"));
    }
    Ok(kind == libc::S_IFDIR)
}

/// Makes the mount point.
fn place(step: &HostStep, root: &OwnedFd, directory: bool) -> Result<(), Error> {
    let made = if directory {
        mkdirat(root, &step.target, Mode::from_bits_truncate(0o755))
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
        openat(root, &step.target, flags, Mode::from_bits_truncate(0o644)).map(|fd| {
            drop(File::from(fd));
        })
    };
    made.map_err(|source| failure(step, "make mount point", &step.target)(source.into()))
}

/// `struct mount_attr` of mount_setattr(2).
#[derive(Debug, Default)]
#[repr(C)]
struct Attr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

fn set_attributes(
    at: BorrowedFd<'_>,
    path: &std::ffi::CStr,
    depth: i32,
    attr: &Attr,
) -> io::Result<()> {
    let flags = depth | if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: `path` is terminated, `attr` is a mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<Attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn open_tree(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: `path` is a terminated string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn move_mount(from: BorrowedFd<'_>, at: BorrowedFd<'_>, to: &Path) -> io::Result<()> {
    let to = c_path(to)?;
    // SAFETY: both paths are terminated strings.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            at.as_raw_fd(),
            to.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
