//! Device nodes and the links in `/dev`.
//!
//! Source: "Default Devices" and "Devices" of the runtime specification (config-linux.md),
//! "Default Filesystems" and the symbolic links of runtime-linux.md.

use crate::error::{Done, Failure, Trying};
use crate::path::{Make, Root, c_path, clean};
use crate::sys::{self, mount as mnt};
use crate::{Error, Result};
use nix::errno::Errno;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag};
use oci::spec::{LinuxDevice, LinuxDeviceType, Spec};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A node to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    path: PathBuf,
    kind: u32,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What `/dev` is filled with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    nodes: Vec<Node>,
    /// `/dev` is the container's own: the links are made.
    links: bool,
}

/// Nodes that every container has.
const DEFAULT: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Understands `linux.devices`. A `/dev` that is bound from elsewhere is left as it is.
pub(crate) fn plan(spec: &Spec) -> Result<Plan> {
    let bound = spec.mounts().iter().flatten().any(|mount| {
        let options = mount.options().iter().flatten();
        let bind = mount.typ().as_deref() == Some("bind")
            || options.into_iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
        bind && clean(mount.destination()) == Path::new("/dev")
    });
    if bound {
        return Ok(Plan::default());
    }
    let mut nodes: Vec<Node> = DEFAULT
        .iter()
        .map(|&(path, major, minor)| Node {
            path: path.into(),
            kind: libc::S_IFCHR,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    for (index, device) in devices.unwrap_or_default().iter().enumerate() {
        let node = node(index, device)?;
        nodes.retain(|known| known.path != node.path);
        nodes.push(node);
    }
    // Is going to be a link to that of the container's own.
    let mut mounts = spec.mounts().iter().flatten();
    if mounts.any(|mount| clean(mount.destination()) == Path::new("/dev/pts")) {
        nodes.retain(|node| node.path != Path::new("/dev/ptmx"));
    }
    Ok(Plan { nodes, links: true })
}

fn node(index: usize, device: &LinuxDevice) -> Result<Node> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(Error::value(field("type"), "\"a\" is for cgroup rules only"));
        }
    };
    let number = |name: &str, value: i64| {
        u32::try_from(value)
            .map_err(|_| Error::value(field(name), format!("{value} is not a device number")))
    };
    let path = clean(device.path());
    if path.file_name().is_none() {
        return Err(Error::value(field("path"), format!("{:?} is no file", device.path())));
    }
    Ok(Node {
        path,
        kind,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

impl Plan {
    /// Makes nodes and links. `bind`: nodes cannot be made, the caller's are shown (in a user
    /// namespace).
    pub(crate) fn apply(&self, root: &Root, bind: bool) -> Done<()> {
        // Most nodes share a directory: it is looked up once.
        let mut last: Option<(PathBuf, OwnedFd)> = None;
        for node in &self.nodes {
            let parent = node.path.parent().unwrap_or(Path::new("/"));
            if last.as_ref().is_none_or(|(path, _)| path != parent) {
                last = Some((parent.to_owned(), root.open_or_make(parent, Make::Directory)?));
            }
            let Some((_, directory)) = &last else { continue };
            let name = node.path.file_name().unwrap_or_default();
            if bind {
                node.bind(directory.as_fd(), name)?;
            } else {
                node.make(directory.as_fd(), name, root)?;
            }
        }
        if self.links { links(root) } else { Ok(()) }
    }
}

impl Node {
    fn words(&self) -> String {
        format!("device {:?} ({}:{})", self.path, self.major, self.minor)
    }

    fn make(&self, parent: BorrowedFd<'_>, name: &OsStr, root: &Root) -> Done<()> {
        let number = nix::sys::stat::makedev(self.major.into(), self.minor.into());
        let kind = SFlag::from_bits_truncate(self.kind);
        let mode = Mode::from_bits_truncate(self.mode);
        match nix::sys::stat::mknodat(parent, name, kind, mode, number) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return self.check_existing(root),
            Err(Errno::EPERM) => return self.bind(parent, name),
            Err(error) => return Err(error).trying(|| self.words()),
        }
        if (self.uid, self.gid) != (0, 0) {
            nix::unistd::fchownat(
                parent,
                name,
                Some(self.uid.into()),
                Some(self.gid.into()),
                nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .trying(|| format!("{}: change the owner", self.words()))?;
            // A change of owner takes the set-id bits away.
            nix::sys::stat::fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink)
                .trying(|| format!("{}: change the mode", self.words()))?;
        }
        Ok(())
    }

    /// What is in the way (of a rootfs with a filled `/dev`, say) is fine if it is the device.
    fn check_existing(&self, root: &Root) -> Done<()> {
        let fd = root.open_path(&self.path, libc::O_PATH).trying(|| self.words())?;
        let stat = sys::fstat(&fd).trying(|| self.words())?;
        let number = nix::sys::stat::makedev(self.major.into(), self.minor.into());
        let same = stat.st_mode & libc::S_IFMT == self.kind
            && (self.kind == libc::S_IFIFO || stat.st_rdev == number);
        if same {
            return Ok(());
        }
        Err(Failure::plain(format!("{}: something else is there", self.words())))
    }

    /// Shows the caller's device of the same path.
    fn bind(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Done<()> {
        let what = || format!("{}: bind the caller's", self.words());
        if self.kind == libc::S_IFIFO {
            let mode = Mode::from_bits_truncate(self.mode);
            return nix::sys::stat::mknodat(parent, name, SFlag::S_IFIFO, mode, 0).trying(what);
        }
        let path = c_path(&self.path)?;
        let source = mnt::clone_tree(sys::cwd(), &path, false).trying(what)?;
        let stat = sys::fstat(&source).trying(what)?;
        let number = nix::sys::stat::makedev(self.major.into(), self.minor.into());
        if stat.st_mode & libc::S_IFMT != self.kind || stat.st_rdev != number {
            return Err(Failure::plain(format!(
                "{}: the caller's is another device",
                self.words()
            )));
        }
        let name = c_path(Path::new(name))?;
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW;
        match sys::openat(parent, &name, flags, 0o644) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).trying(what),
        }
        let target = sys::openat(parent, &name, libc::O_PATH | libc::O_NOFOLLOW, 0).trying(what)?;
        mnt::attach(source.as_fd(), target.as_fd()).trying(what)
    }
}

fn links(root: &Root) -> Done<()> {
    let dev = root.open_or_make(Path::new("/dev"), Make::Directory)?;
    let link = |name: &str, target: &str| -> Done<()> {
        match nix::unistd::symlinkat(target, dev.as_fd(), name) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error).trying(|| format!("link /dev/{name} to {target}")),
        }
    };
    for (name, target) in LINKS {
        link(name, target)?;
    }
    if root.open(c"/proc/kcore", libc::O_PATH).is_ok() {
        link("core", "/proc/kcore")?;
    }
    if root.open(c"/dev/pts/ptmx", libc::O_PATH).is_ok() {
        // What a rootfs has there may be a node of the caller's terminals.
        match nix::unistd::unlinkat(dev.as_fd(), "ptmx", nix::unistd::UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            // A read-only /dev keeps what it has.
            Err(Errno::EROFS) => return Ok(()),
            Err(error) => return Err(error).trying(|| "replace /dev/ptmx"),
        }
        link("ptmx", "pts/ptmx")?;
    }
    Ok(())
}

/// Shows the terminal's slave as `/dev/console`.
pub(crate) fn console(root: &Root, slave: BorrowedFd<'_>) -> Done<()> {
    let target = root.open_or_make(Path::new("/dev/console"), Make::File)?;
    let tree = mnt::clone_tree(slave, c"", false)
        .trying(|| "process.terminal: show it as /dev/console")?;
    mnt::attach(tree.as_fd(), target.as_fd()).trying(|| "process.terminal: show it as /dev/console")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(json: &str) -> Result<Plan> {
        plan(&serde_json::from_str::<Spec>(json).unwrap())
    }

    #[test]
    fn a_given_device_replaces_a_default_one() {
        let plan = plan_of(
            r#"{"ociVersion":"1.3.0","linux":{"devices":[
                {"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":384}]}}"#,
        )
        .unwrap();
        let null: Vec<_> =
            plan.nodes.iter().filter(|node| node.path == Path::new("/dev/null")).collect();
        assert_eq!(null.len(), 1);
        assert_eq!(null[0].mode, 0o600);
    }

    #[test]
    fn a_bound_dev_is_left_alone() {
        let plan = plan_of(
            r#"{"ociVersion":"1.3.0","mounts":[
                {"destination":"/dev","source":"/dev","options":["rbind"]}]}"#,
        );
        assert_eq!(plan.unwrap(), Plan::default());
    }

    #[test]
    fn a_wild_number_is_refused() {
        let error = plan_of(
            r#"{"ociVersion":"1.3.0","linux":{"devices":[
                {"path":"/dev/x","type":"c","major":-1,"minor":3}]}}"#,
        );
        assert!(error.unwrap_err().to_string().contains("linux.devices[0].major"));
    }
}
