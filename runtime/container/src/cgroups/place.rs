//! Where `linux.cgroupsPath` puts a container, by driver.
//!
//! Source: "Cgroups Path" of the runtime specification; placement is runc's: an absolute path is
//! taken from the root of each hierarchy, a relative one (and the id, where no path is given)
//! from our own cgroup on v1, and from our own cgroup's parent on a machine with v2 alone, because
//! our own cgroup there has processes and so cannot have controllers enabled for children.

use super::error::{Error, Result};
use super::layout::Layout;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// A cleaned `linux.cgroupsPath`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    /// Without leading slash, `.` and `..`; never empty.
    pub path: PathBuf,
    /// From the root of the hierarchy.
    pub absolute: bool,
}

impl Inner {
    /// Cleans a path; `..` never climbs above its start.
    pub fn new(given: Option<&Path>, id: &str) -> Result<Inner> {
        let given = given.filter(|path| !path.as_os_str().is_empty());
        let path = given.unwrap_or(Path::new(id));
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => {
                    clean.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        let bad = |reason| Error::Path { path: path.to_path_buf(), reason };
        if clean.as_os_str().is_empty() {
            return Err(bad("names the root of the hierarchy"));
        }
        if clean.as_os_str().len() > libc::PATH_MAX as usize - 256 {
            return Err(bad("is too long"));
        }
        if clean.as_os_str().as_encoded_bytes().contains(&b'\n') {
            return Err(bad("contains a line break"));
        }
        Ok(Inner { path: clean, absolute: path.is_absolute() })
    }

    /// The directory in each hierarchy, by its first controller's name; v2 has the empty name.
    pub fn directories(&self, layout: &Layout) -> BTreeMap<String, PathBuf> {
        let mut out = BTreeMap::new();
        for v1 in &layout.v1 {
            let start = if self.absolute { &v1.mountpoint } else { &v1.own };
            let directory = start.join(&self.path);
            for controller in &v1.controllers {
                out.insert(controller.clone(), directory.clone());
            }
        }
        if let Some(v2) = &layout.v2 {
            let start = match (self.absolute, layout.v1.is_empty()) {
                (true, _) => &v2.mountpoint,
                (false, false) => &v2.own,
                (false, true) if v2.own == v2.mountpoint => &v2.own,
                (false, true) => v2.own.parent().unwrap_or(&v2.mountpoint),
            };
            out.insert(String::new(), start.join(&self.path));
        }
        out
    }
}

/// What the systemd driver makes of `slice:prefix:name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The parent slice; `None`: systemd's default (`system.slice`, `user.slice` for users).
    pub slice: String,
    /// The unit: `prefix-name.scope`, or a slice of its own.
    pub name: String,
}

impl Unit {
    pub fn new(given: Option<&Path>, id: &str, rootless: bool) -> Result<Unit> {
        let default_slice = if rootless { "user.slice" } else { "system.slice" };
        let Some(path) = given.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(Unit { slice: default_slice.to_owned(), name: format!("hull-{id}.scope") });
        };
        let bad = |reason| Error::Path { path: path.to_path_buf(), reason };
        let text = path.to_str().ok_or_else(|| bad("is not UTF-8"))?;
        let parts: Vec<&str> = text.split(':').collect();
        let &[slice, prefix, name] = parts.as_slice() else {
            return Err(bad("the systemd driver wants slice:prefix:name"));
        };
        if name.is_empty() || name.contains('/') || prefix.contains('/') {
            return Err(bad("the systemd driver wants slice:prefix:name without slashes"));
        }
        let slice = if slice.is_empty() { default_slice } else { slice };
        expand_slice(slice).ok_or_else(|| bad("is not the name of a slice"))?;
        let name = match (name.ends_with(".slice"), prefix) {
            (true, _) => name.to_owned(),
            (false, "") => format!("{name}.scope"),
            (false, prefix) => format!("{prefix}-{name}.scope"),
        };
        Ok(Unit { slice: slice.to_owned(), name })
    }

    /// Path of the unit's cgroup below the hierarchy's root (below the user's own manager's cgroup
    /// where that made it).
    pub fn path(&self) -> PathBuf {
        let parent = expand_slice(&self.slice).unwrap_or_default();
        if self.name.ends_with(".slice") {
            return expand_slice(&self.name).unwrap_or_else(|| parent.join(&self.name));
        }
        parent.join(&self.name)
    }
}

/// `a-b.slice` lies in `a.slice`: gives `a.slice/a-b.slice`. The root slice is `-.slice`.
pub(super) fn expand_slice(name: &str) -> Option<PathBuf> {
    if name == "-.slice" {
        return Some(PathBuf::new());
    }
    let stem = name.strip_suffix(".slice")?;
    if stem.is_empty() || name.contains('/') {
        return None;
    }
    let mut out = PathBuf::new();
    let mut prefix = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return None;
        }
        prefix.push_str(part);
        out.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::layout::{V1, V2};

    fn inner(path: &str) -> Inner {
        Inner::new(Some(Path::new(path)), "id").unwrap()
    }

    fn hybrid() -> Layout {
        let v1 = |name: &str, own: &str| V1 {
            controllers: vec![name.to_owned()],
            mountpoint: Path::new("/sys/fs/cgroup").join(name),
            own: Path::new("/sys/fs/cgroup").join(name).join(own),
        };
        Layout {
            v1: vec![v1("cpu", ""), v1("memory", "me")],
            v2: Some(V2 {
                mountpoint: "/sys/fs/cgroup/unified".into(),
                own: "/sys/fs/cgroup/unified/me".into(),
            }),
        }
    }

    #[test]
    fn absolute_paths_start_at_the_root() {
        let directories = inner("/a/b").directories(&hybrid());
        assert_eq!(directories["memory"], Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(directories[""], Path::new("/sys/fs/cgroup/unified/a/b"));
    }

    #[test]
    fn relative_and_absent_paths_start_at_our_own_cgroup() {
        let directories = inner("a").directories(&hybrid());
        assert_eq!(directories["cpu"], Path::new("/sys/fs/cgroup/cpu/a"));
        assert_eq!(directories["memory"], Path::new("/sys/fs/cgroup/memory/me/a"));
        assert_eq!(directories[""], Path::new("/sys/fs/cgroup/unified/me/a"));
        let absent = Inner::new(None, "id").unwrap();
        assert_eq!(
            absent.directories(&hybrid())["memory"],
            Path::new("/sys/fs/cgroup/memory/me/id")
        );
    }

    #[test]
    fn with_v2_alone_relative_paths_are_siblings_of_ours() {
        let v2 = V2 { mountpoint: "/sys/fs/cgroup".into(), own: "/sys/fs/cgroup/s/me".into() };
        let layout = Layout { v1: vec![], v2: Some(v2) };
        assert_eq!(inner("a").directories(&layout)[""], Path::new("/sys/fs/cgroup/s/a"));
        let v2 = V2 { mountpoint: "/sys/fs/cgroup".into(), own: "/sys/fs/cgroup".into() };
        let layout = Layout { v1: vec![], v2: Some(v2) };
        assert_eq!(inner("a").directories(&layout)[""], Path::new("/sys/fs/cgroup/a"));
    }

    #[test]
    fn paths_never_climb_out() {
        assert_eq!(inner("../../../etc/x").path, Path::new("etc/x"));
        assert_eq!(inner("/a/../../b/./c").path, Path::new("b/c"));
        assert!(Inner::new(Some(Path::new("/")), "id").is_err());
        assert!(Inner::new(Some(Path::new("a/..")), "id").is_err());
        assert!(Inner::new(Some(Path::new("a\nb")), "id").is_err());
    }

    #[test]
    fn systemd_units_are_slice_prefix_name() {
        let unit = |path: &str| Unit::new(Some(Path::new(path)), "id", false);
        let one = unit("machine-a.slice:libpod:abc").unwrap();
        assert_eq!(one.name, "libpod-abc.scope");
        assert_eq!(one.path(), Path::new("machine.slice/machine-a.slice/libpod-abc.scope"));
        assert_eq!(unit(":p:n").unwrap().path(), Path::new("system.slice/p-n.scope"));
        assert_eq!(unit("-.slice::n").unwrap().path(), Path::new("n.scope"));
        assert_eq!(unit("a.slice::a-b.slice").unwrap().path(), Path::new("a.slice/a-b.slice"));
        assert_eq!(Unit::new(None, "id", false).unwrap().name, "hull-id.scope");
        for wrong in [
            "/a/b",
            "a:b",
            "a:b:c:d",
            "a.slice:p:",
            "x--y.slice:p:n",
            "x/y.slice:p:n",
            "noslice:p:n",
        ] {
            assert!(unit(wrong).is_err(), "{wrong}");
        }
    }
}
