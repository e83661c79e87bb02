//! Which hierarchies this machine has, where they are mounted, and where in them we are.
//!
//! Sources: `cgroups(7)` ("/proc files"), `proc_pid_mountinfo(5)`. Parsing is pure; [`Layout::read`]
//! reads `/proc/self/mountinfo` and `/proc/self/cgroup` once, and only the latter where
//! `/sys/fs/cgroup` is the unified hierarchy.

use super::error::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// Where every distribution mounts its hierarchies.
const CONVENTION: &str = "/sys/fs/cgroup";

/// One v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct V1 {
    /// `cpu`, `cpuacct`; `name=systemd` for a named one.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The directory of the cgroup we are in.
    pub own: PathBuf,
}

/// The unified hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct V2 {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The directory of the cgroup we are in.
    pub own: PathBuf,
}

/// All hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub v1: Vec<V1>,
    pub v2: Option<V2>,
}

impl Layout {
    /// Reads the machine's layout.
    pub fn read() -> Result<Layout> {
        let cgroup = read("/proc/self/cgroup")?;
        let layout = if is_cgroup2(Path::new(CONVENTION)) {
            let own = own_path(&cgroup, |id, names| id == "0" && names.is_empty());
            let mountpoint = PathBuf::from(CONVENTION);
            Layout {
                v1: Vec::new(),
                v2: Some(V2 { own: below(&mountpoint, "/", own), mountpoint }),
            }
        } else {
            Layout::parse(&read("/proc/self/mountinfo")?, &cgroup)
        };
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(Error::NoHierarchy);
        }
        Ok(layout)
    }

    /// Parses the two files of `/proc/self`.
    pub fn parse(mountinfo: &str, cgroup: &str) -> Layout {
        let mut layout = Layout::default();
        for line in mountinfo.lines() {
            let Some(mount) = Mount::parse(line) else { continue };
            let mountpoint = PathBuf::from(unescape(mount.mountpoint));
            let preferred = mountpoint.starts_with(CONVENTION);
            if mount.fstype == "cgroup2" {
                let own = own_path(cgroup, |id, names| id == "0" && names.is_empty());
                let found = V2 { own: below(&mountpoint, mount.root, own), mountpoint };
                match &layout.v2 {
                    Some(known) if known.mountpoint.starts_with(CONVENTION) || !preferred => {}
                    _ => layout.v2 = Some(found),
                }
                continue;
            }
            let Some((key, own)) = cgroup.lines().find_map(|line| {
                let (_, names, path) = fields(line)?;
                (!names.is_empty() && mount.has(names)).then_some((names, path))
            }) else {
                continue;
            };
            let found = V1 {
                controllers: key.split(',').map(str::to_owned).collect(),
                own: below(&mountpoint, mount.root, own),
                mountpoint,
            };
            match layout.v1.iter_mut().find(|known| known.controllers == found.controllers) {
                Some(known) if !known.mountpoint.starts_with(CONVENTION) && preferred => {
                    *known = found
                }
                Some(_) => {}
                None => layout.v1.push(found),
            }
        }
        layout
    }

    /// The v1 hierarchy of a controller.
    pub fn v1_of(&self, controller: &str) -> Option<&V1> {
        self.v1.iter().find(|v1| v1.controllers.iter().any(|name| name == controller))
    }

    /// The directory of a process in the v2 hierarchy, where it can be told.
    pub fn v2_of(&self, pid: i32) -> Option<PathBuf> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let own = own_path(&text, |id, names| id == "0" && names.is_empty());
        let v2 = self.v2.as_ref()?;
        Some(v2.mountpoint.join(own.trim_start_matches('/')))
    }

    /// A directory below which all hierarchies are found.
    pub fn base(&self) -> PathBuf {
        let mut points =
            self.v1.iter().map(|v1| &v1.mountpoint).chain(self.v2.iter().map(|v2| &v2.mountpoint));
        let Some(first) = points.next() else { return PathBuf::from("/") };
        let mut base = first.clone();
        for point in points {
            while !point.starts_with(&base) && base.pop() {}
        }
        base
    }
}

/// One line of `/proc/self/mountinfo`, if it is of a cgroup hierarchy.
struct Mount<'a> {
    root: &'a str,
    mountpoint: &'a str,
    fstype: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        let fstype = back.next()?;
        if fstype != "cgroup" && fstype != "cgroup2" {
            return None;
        }
        let options = back.nth(1).unwrap_or("");
        let mut front = front.split(' ').skip(3);
        Some(Mount { root: front.next()?, mountpoint: front.next()?, fstype, options })
    }

    /// Whether this mount is the hierarchy of these controllers (as `/proc/self/cgroup` lists them).
    fn has(&self, controllers: &str) -> bool {
        controllers.split(',').all(|name| self.options.split(',').any(|option| option == name))
    }
}

fn fields(line: &str) -> Option<(&str, &str, &str)> {
    let mut parts = line.splitn(3, ':');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

fn own_path(cgroup: &str, wanted: impl Fn(&str, &str) -> bool) -> &str {
    cgroup
        .lines()
        .find_map(|line| {
            let (id, names, path) = fields(line)?;
            wanted(id, names).then_some(path)
        })
        .unwrap_or("/")
}

/// The directory of cgroup `path` in a mount that shows `root` of the hierarchy. A cgroup outside
/// of what is mounted (a container without a cgroup namespace) is taken to be the mount's root.
fn below(mountpoint: &Path, root: &str, path: &str) -> PathBuf {
    let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let mut out = mountpoint.to_path_buf();
    // A cgroup outside of our cgroup namespace reads as `/..`: never climb out of the mount.
    out.extend(inside.components().filter(|part| matches!(part, Component::Normal(_))));
    out
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a directory is of the unified hierarchy.
pub(super) fn is_cgroup2(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

fn read(path: &str) -> Result<String> {
    super::fs::read(Path::new(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /srv/a\\040b rw - ext4 /dev/sda rw";

    #[test]
    fn a_hybrid_machine_has_both() {
        let own = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/u";
        let layout = Layout::parse(HYBRID, own);
        assert_eq!(layout.v1.len(), 3);
        assert_eq!(
            layout.v1_of("cpuacct").unwrap().mountpoint,
            Path::new("/sys/fs/cgroup/cpu,cpuacct")
        );
        assert_eq!(layout.v1_of("memory").unwrap().own, Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(layout.v1_of("name=systemd").unwrap().own, Path::new("/sys/fs/cgroup/systemd"));
        assert_eq!(layout.v2.as_ref().unwrap().own, Path::new("/sys/fs/cgroup/unified/u"));
        assert_eq!(layout.base(), Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn inside_a_container_the_shown_root_is_taken_off() {
        let info = "35 31 0:32 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let layout = Layout::parse(info, "4:memory:/docker/x/y");
        assert_eq!(layout.v1[0].own, Path::new("/sys/fs/cgroup/memory/y"));
        let layout = Layout::parse(info, "4:memory:/elsewhere");
        assert_eq!(layout.v1[0].own, Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn a_second_mount_of_a_hierarchy_is_not_taken() {
        let info = "35 31 0:32 / /srv/c/memory rw - cgroup cgroup rw,memory\n\
                    36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let layout = Layout::parse(info, "4:memory:/");
        assert_eq!(layout.v1.len(), 1);
        assert_eq!(layout.v1[0].mountpoint, Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn a_unified_machine_has_one() {
        let layout = Layout::parse(
            "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate",
            "0::/user.slice/a",
        );
        assert!(layout.v1.is_empty());
        assert_eq!(layout.v2.as_ref().unwrap().own, Path::new("/sys/fs/cgroup/user.slice/a"));
        assert_eq!(layout.base(), Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn escapes_of_mountinfo_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/a\0"), r"/a\0");
    }
}
