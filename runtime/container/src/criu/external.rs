//! What is not the container's own: named to CRIU at the dump by a key, and again at the restore
//! with what takes its place.

use super::rpc::{ExternalMount, JoinNamespace};
use super::{Error, rpc};
use crate::cgroups::Hierarchy;
use oci::spec::{LinuxNamespaceType as Kind, Mount, Spec};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// A mount that comes from outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bind {
    /// Where it is in the container: CRIU's key.
    pub inside: PathBuf,
    /// What is mounted there.
    pub outside: PathBuf,
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    let option = |name: &str| mount.options().iter().flatten().any(|option| option == name);
    mount.typ().as_deref() == Some("bind") || option("bind") || option("rbind")
}

fn is_cgroup(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
}

/// The mounts from outside, in the spec's order. `hierarchies`: what a cgroup mount shows.
pub(super) fn binds(spec: &Spec, bundle: &Path, hierarchies: &[Hierarchy]) -> Vec<Bind> {
    let mut out = Vec::new();
    let own_cgroups = has(spec, Kind::Cgroup);
    for mount in spec.mounts().iter().flatten() {
        let inside = clean(mount.destination());
        if is_bind(mount) {
            let source = mount.source().clone().unwrap_or_default();
            out.push(Bind { inside, outside: plain(&bundle.join(source)) });
        } else if is_cgroup(mount) && !own_cgroups {
            // With a cgroup namespace, and with v2 alone, they are mounts of the container's own.
            for hierarchy in hierarchies.iter().filter(|hierarchy| !hierarchy.name.is_empty()) {
                out.push(Bind {
                    inside: inside.join(&hierarchy.name),
                    outside: hierarchy.source.clone(),
                });
            }
        }
    }
    out
}

/// Device nodes that are bound rather than made (in a user namespace they cannot be made).
pub(super) fn devices(spec: &Spec) -> Vec<Bind> {
    let standard =
        ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom"];
    let given = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let given = given.into_iter().flatten().map(|device| device.path().clone());
    standard
        .into_iter()
        .map(PathBuf::from)
        .chain(given)
        .map(|path| Bind { inside: path.clone(), outside: path })
        .collect()
}

pub(super) fn mount(key: &Path, value: &Path) -> ExternalMount {
    ExternalMount {
        key: key.to_string_lossy().into_owned(),
        value: value.to_string_lossy().into_owned(),
    }
}

/// A path of the host without `.`, which CRIU cannot take apart, and without links where it exists.
fn plain(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.components().collect())
}

/// An absolute path without `.` and `..`.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Where `path` leads inside of `rootfs` with its symbolic links followed there: CRIU's keys are the
/// places that are mounted on. What does not exist stays as it is.
pub(super) fn resolve(rootfs: &Path, path: &Path) -> PathBuf {
    let inner = || -> Option<PathBuf> {
        let root = rootfs.canonicalize().ok()?;
        let directory = File::open(&root).ok()?;
        let target = nix::fcntl::openat2(
            &directory,
            path.strip_prefix("/").ok()?,
            nix::fcntl::OpenHow::new()
                .flags(nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC)
                .resolve(nix::fcntl::ResolveFlag::RESOLVE_IN_ROOT),
        )
        .ok()?;
        use std::os::fd::AsRawFd;
        let there = std::fs::read_link(format!("/proc/self/fd/{}", target.as_raw_fd())).ok()?;
        there.strip_prefix(&root).ok().map(|inside| Path::new("/").join(inside))
    };
    inner().unwrap_or_else(|| path.to_path_buf())
}

/// Whether the container has a namespace of this kind, its own or a joined one.
pub(super) fn has(spec: &Spec, kind: Kind) -> bool {
    namespaces(spec).any(|(known, _)| known == kind)
}

fn namespaces(spec: &Spec) -> impl Iterator<Item = (Kind, Option<&Path>)> {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    list.into_iter().flatten().map(|namespace| {
        let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
        (namespace.typ(), path)
    })
}

/// CRIU's word for a namespace, and the key under which an external one is kept.
fn words(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Network => ("net", "extRootNetNS"),
        Kind::Pid => ("pid", "extRootPidNS"),
        Kind::Mount => ("mnt", "extRootMntNS"),
        Kind::Uts => ("uts", "extRootUtsNS"),
        Kind::Ipc => ("ipc", "extRootIpcNS"),
        Kind::User => ("user", "extRootUserNS"),
        Kind::Cgroup => ("cgroup", "extRootCgroupNS"),
        Kind::Time => ("time", "extRootTimeNS"),
    }
}

/// At the dump: joined network and pid namespaces stay outside of the image.
pub(super) fn dumped_namespaces(spec: &Spec) -> Result<Vec<String>, Error> {
    use std::os::unix::fs::MetadataExt;
    namespaces(spec)
        .filter(|(kind, _)| matches!(kind, Kind::Network | Kind::Pid))
        .filter_map(|(kind, path)| path.map(|path| (kind, path)))
        .map(|(kind, path)| {
            let inode = std::fs::metadata(path)
                .map_err(|source| {
                    Error::io(format!("look at namespace {}", path.display()), source)
                })?
                .ino();
            let (word, key) = words(kind);
            Ok(format!("{word}[{inode}]:{key}"))
        })
        .collect()
}

/// Namespaces to inherit, by key, and to join.
type Restored = (Vec<(String, OwnedFd)>, Vec<JoinNamespace>);

/// At the restore: network and pid namespaces are inherited as descriptors, the others joined by
/// path.
pub(super) fn restored_namespaces(spec: &Spec) -> Result<Restored, Error> {
    let (mut inherited, mut joined) = (Vec::new(), Vec::new());
    for (kind, path) in namespaces(spec) {
        let Some(path) = path else { continue };
        let (word, key) = words(kind);
        match kind {
            Kind::Network | Kind::Pid => {
                let file = File::open(path).map_err(|source| {
                    Error::io(format!("open namespace {}", path.display()), source)
                })?;
                inherited.push((key.to_owned(), file.into()));
            }
            Kind::Cgroup | Kind::Time => {
                return Err(Error::Unsupported {
                    what: format!("linux.namespaces: {word}"),
                    reason: "criu cannot restore into a joined one".to_owned(),
                });
            }
            _ => joined.push(JoinNamespace {
                ns: word.to_owned(),
                file: path.to_string_lossy().into_owned(),
            }),
        }
    }
    Ok((inherited, joined))
}

/// What the standard streams of a process are: `pipe:[123]` for a pipe, else a path.
pub(super) fn streams(pid: i32) -> Result<[String; 3], Error> {
    let mut out = [const { String::new() }; 3];
    for (number, name) in out.iter_mut().enumerate() {
        let path = format!("/proc/{pid}/fd/{number}");
        match std::fs::read_link(&path) {
            Ok(target) => *name = target.to_string_lossy().into_owned(),
            // Closed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::io(format!("read {path}"), source)),
        }
    }
    Ok(out)
}

/// The pipes among the streams that an image was made with, to be inherited.
pub(super) fn inherited_streams(names: &[String]) -> Vec<rpc::InheritFd> {
    (0..)
        .zip(names)
        .filter(|(_, name)| name.contains("pipe:"))
        .map(|(fd, name)| rpc::InheritFd { key: name.clone(), fd })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> Spec {
        let mut base = json!({"ociVersion": "1.2.0"});
        base.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        serde_json::from_value(base).unwrap()
    }

    fn hierarchy(name: &str) -> Hierarchy {
        Hierarchy {
            name: name.to_owned(),
            links: vec![],
            source: Path::new("/sys/fs/cgroup").join(name).join("c"),
            v2: false,
            data: String::new(),
        }
    }

    #[test]
    fn binds_and_v1_cgroups_come_from_outside() {
        let mounts = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/a/../data", "type": "none", "source": "./data/.", "options": ["rbind"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
        ]);
        let found = binds(&spec(json!({ "mounts": mounts })), Path::new("/b"), &[hierarchy("cpu")]);
        let want = [
            Bind { inside: "/data".into(), outside: "/b/data".into() },
            Bind { inside: "/sys/fs/cgroup/cpu".into(), outside: "/sys/fs/cgroup/cpu/c".into() },
        ];
        assert_eq!(found, want);
        let own = json!({"mounts": mounts, "linux": {"namespaces": [{"type": "cgroup"}]}});
        assert_eq!(binds(&spec(own), Path::new("/b"), &[hierarchy("cpu")]).len(), 1);
    }

    #[test]
    fn joined_namespaces_have_keys() {
        let linux = json!({"linux": {"namespaces": [
            {"type": "network", "path": "/proc/self/ns/net"}, {"type": "pid"}, {"type": "ipc", "path": "/proc/self/ns/ipc"},
        ]}});
        let spec = spec(linux);
        let dumped = dumped_namespaces(&spec).unwrap();
        assert!(
            dumped.len() == 1
                && dumped[0].starts_with("net[")
                && dumped[0].ends_with("]:extRootNetNS")
        );
        let (inherited, joined) = restored_namespaces(&spec).unwrap();
        assert_eq!(inherited[0].0, "extRootNetNS");
        assert_eq!(joined, [JoinNamespace { ns: "ipc".into(), file: "/proc/self/ns/ipc".into() }]);
    }

    #[test]
    fn only_pipes_are_inherited() {
        let names = ["pipe:[5]".to_owned(), "/dev/null".to_owned(), "pipe:[6]".to_owned()];
        let got = inherited_streams(&names);
        assert_eq!(
            got.iter().map(|fd| (fd.key.as_str(), fd.fd)).collect::<Vec<_>>(),
            [("pipe:[5]", 0), ("pipe:[6]", 2)]
        );
    }

    #[test]
    fn links_are_followed_inside_of_the_root() {
        let root = std::env::temp_dir().join(format!("hull-criu-root-{}", std::process::id()));
        std::fs::create_dir_all(root.join("run/x")).unwrap();
        std::os::unix::fs::symlink("/run", root.join("var")).unwrap();
        assert_eq!(resolve(&root, Path::new("/var/x")), Path::new("/run/x"));
        assert_eq!(resolve(&root, Path::new("/none")), Path::new("/none"));
        std::fs::remove_dir_all(root).unwrap();
    }
}
