//! From `mounts` of `config.json` to steps, without a look at the machine.

use super::options::{self, IdMap, Options};
use crate::path::clean;
use crate::{Error, Result};
use oci::spec::{LinuxIdMapping, LinuxNamespaceType, Spec};
use std::path::{Path, PathBuf};

/// What a step makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file or directory shown a second time. `inside`: the same place seen from the container's
    /// root, where earlier steps have changed what is to be seen there.
    Bind { source: PathBuf, inside: Option<PathBuf> },
    /// A new file system.
    New { fstype: String, source: String },
    /// The container's cgroups.
    Cgroup,
    /// Attributes of what is mounted already.
    Remount,
}

/// One mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Place in the list, for messages.
    pub(crate) index: usize,
    /// Inside the root; absolute, without `..`.
    pub(crate) destination: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) options: Options,
    /// Mappings of an `idmap` mount: of users and of groups. Both empty: the container's own.
    pub(crate) mappings: Option<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
}

/// What may be bound inside `/proc`: files that lxcfs and its like provide.
const INSIDE_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Whether a path inside `/proc` may be mounted over.
pub(crate) fn allowed_inside_proc(destination: &Path) -> bool {
    INSIDE_PROC.iter().any(|allowed| Path::new(allowed) == destination)
}

/// Plans all mounts of a bundle.
pub(crate) fn plan(spec: &Spec, bundle: &Path) -> Result<Vec<Step>> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let rootfs = spec.root().as_ref().map(|root| clean(&bundle.join(root.path())));
    let rootfs = rootfs.filter(|rootfs| rootfs != Path::new("/"));
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let user_namespace =
        namespaces.is_some_and(|list| list.iter().any(|one| one.typ() == LinuxNamespaceType::User));
    let mut steps: Vec<Step> = Vec::with_capacity(mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        let mut step = step(index, mount, bundle, rootfs.as_deref())?;
        if let (Kind::Bind { source, inside }, Some(rootfs)) = (&mut step.kind, &rootfs) {
            *inside = seen_inside(source, rootfs, &steps);
        }
        if let Kind::Bind { inside, .. } = &step.kind {
            step.options.bind = true;
            step.options.locked = user_namespace && inside.is_none();
        }
        steps.push(step);
    }
    Ok(steps)
}

/// Where a source lies in the container's root, if mounts made there earlier are in it or it is in
/// one of them. From outside they are not to be seen.
fn seen_inside(source: &Path, rootfs: &Path, earlier: &[Step]) -> Option<PathBuf> {
    let below = below(source, rootfs)?;
    let met = |step: &Step| {
        let place = &step.destination;
        step.kind != Kind::Remount && (below.starts_with(place) || place.starts_with(&below))
    };
    earlier.iter().any(met).then_some(below)
}

/// A path of the host as one of the container, if it lies in the rootfs.
fn below(path: &Path, rootfs: &Path) -> Option<PathBuf> {
    // Most do not: without a copy, then.
    path.starts_with(rootfs).then(|| clean(path))?.strip_prefix(rootfs).ok().map(clean)
}

fn step(
    index: usize,
    mount: &oci::spec::Mount,
    bundle: &Path,
    rootfs: Option<&Path>,
) -> Result<Step> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let options = options::parse(mount.options().iter().flatten().map(String::as_str));
    // Some write where it is on the host.
    let outside = rootfs.and_then(|rootfs| below(mount.destination(), rootfs));
    let destination = outside.unwrap_or_else(|| clean(mount.destination()));
    if destination == Path::new("/") {
        return Err(Error::value(field("destination"), "the root itself cannot be mounted over"));
    }
    let fstype = mount.typ().as_deref().unwrap_or_default();
    let source = mount.source().as_deref().filter(|source| !source.as_os_str().is_empty());
    let kind = if options.remount {
        Kind::Remount
    } else if fstype == "cgroup" || (fstype == "cgroup2" && !options.bind) {
        Kind::Cgroup
    } else if options.bind || fstype == "bind" {
        let source =
            source.ok_or_else(|| Error::value(field("source"), "a bind mount needs one"))?;
        Kind::Bind { source: bundle.join(source), inside: None }
    } else if fstype.is_empty() || fstype == "none" {
        return Err(Error::value(field("type"), "is missing, and the options do not say bind"));
    } else {
        let source = source.map_or_else(|| fstype.into(), |source| source.to_string_lossy().into());
        Kind::New { fstype: fstype.to_owned(), source }
    };
    if destination.starts_with("/proc") && destination != Path::new("/proc") {
        let harmless = matches!(kind, Kind::Remount) || allowed_inside_proc(&destination);
        if !harmless && !matches!(&kind, Kind::New { fstype, .. } if fstype == "proc") {
            return Err(Error::value(
                field("destination"),
                format!("{destination:?} cannot be mounted because it is inside /proc"),
            ));
        }
    }
    if options.copy_up && !matches!(&kind, Kind::New { fstype, .. } if fstype == "tmpfs") {
        return Err(Error::value(field("options"), "tmpcopyup is for tmpfs only"));
    }
    let users = mount.uid_mappings().clone().unwrap_or_default();
    let groups = mount.gid_mappings().clone().unwrap_or_default();
    let asked = options.idmap != IdMap::No || !users.is_empty() || !groups.is_empty();
    if asked && !matches!(kind, Kind::Bind { .. }) {
        return Err(Error::value(field("uidMappings"), "only bind mounts can be id-mapped"));
    }
    if users.is_empty() != groups.is_empty() {
        return Err(Error::value(
            field("uidMappings"),
            "uidMappings and gidMappings must be given together",
        ));
    }
    Ok(Step { index, destination, kind, options, mappings: asked.then_some((users, groups)) })
}

impl Step {
    /// What the step does, for messages.
    pub(crate) fn words(&self) -> String {
        let (index, destination) = (self.index, &self.destination);
        match &self.kind {
            Kind::Bind { source, .. } => {
                format!("error mounting {source:?} to rootfs at {destination:?} (mounts[{index}])")
            }
            Kind::New { fstype, .. } => {
                format!("error mounting {fstype:?} to rootfs at {destination:?} (mounts[{index}])")
            }
            Kind::Cgroup => {
                format!("error mounting \"cgroup\" to rootfs at {destination:?} (mounts[{index}])")
            }
            Kind::Remount => format!("error remounting {destination:?} (mounts[{index}])"),
        }
    }

    /// Whether the container may write to its control groups there.
    pub(crate) fn is_writable_cgroup(&self) -> bool {
        let flags = self.options.attributes.set | self.options.tree.set;
        self.kind == Kind::Cgroup && flags & crate::sys::mount::attr::RDONLY == 0
    }

    /// Whether the whole tree below the source is id-mapped.
    pub(crate) fn maps_tree(&self) -> bool {
        self.options.idmap == IdMap::Tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(mounts: &str) -> Result<Vec<Step>> {
        let text = format!(r#"{{"ociVersion":"1.3.0","mounts":{mounts}}}"#);
        let spec: Spec = serde_json::from_str(&text).unwrap();
        plan(&spec, Path::new("/bundle"))
    }

    #[test]
    fn a_relative_source_is_the_bundles() {
        let steps = steps(r#"[{"destination":"data","source":"d","options":["bind"]}]"#).unwrap();
        assert_eq!(steps[0].destination, Path::new("/data"));
        assert_eq!(steps[0].kind, Kind::Bind { source: "/bundle/d".into(), inside: None });
    }

    #[test]
    fn a_source_among_earlier_mounts_is_seen_from_inside() {
        let text = r#"{"ociVersion":"1.3.0","root":{"path":"rootfs"},"mounts":[
            {"destination":"/e","source":"/bundle/rootfs/a","options":["bind"]},
            {"destination":"/bundle/rootfs/a/b","source":"/x","options":["bind"]},
            {"destination":"/c","source":"rootfs/a","options":["rbind"]},
            {"destination":"/d","source":"/bundle/rootfs/./a/b/f","options":["bind"]},
            {"destination":"/f","source":"/bundle/rootfs/a/z","options":["bind"]},
            {"destination":"/g","source":"/bundle/rootfs/../a/b","options":["bind"]}]}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        let steps = plan(&spec, Path::new("/bundle")).unwrap();
        assert_eq!(steps[1].destination, Path::new("/a/b"));
        let inside: Vec<_> = steps
            .iter()
            .map(|step| match &step.kind {
                Kind::Bind { inside, .. } => inside.as_deref().and_then(Path::to_str),
                _ => None,
            })
            .collect();
        assert_eq!(inside, [None, None, Some("/a"), Some("/a/b/f"), None, None]);
    }

    #[test]
    fn a_source_may_be_missing() {
        let steps = steps(r#"[{"destination":"/proc","type":"proc"}]"#).unwrap();
        let kind = Kind::New { fstype: "proc".into(), source: "proc".into() };
        assert_eq!(steps[0].kind, kind);
    }

    #[test]
    fn a_bind_needs_a_source() {
        let error = steps(r#"[{"destination":"/x","options":["bind"]}]"#).unwrap_err();
        assert!(error.to_string().starts_with("mounts[0].source:"), "{error}");
    }

    #[test]
    fn proc_is_not_mounted_over() {
        for destination in ["/proc/sys", "/x/../proc/self", "/proc/1/attr"] {
            let text = format!(
                r#"[{{"destination":"{destination}","source":"/tmp","options":["bind"]}}]"#
            );
            let error = steps(&text).unwrap_err();
            assert!(error.to_string().contains("inside /proc"), "{error}");
        }
        let fine = r#"[{"destination":"/proc/meminfo","source":"/tmp/m","options":["bind"]}]"#;
        assert!(steps(fine).is_ok());
    }

    #[test]
    fn mappings_come_in_pairs() {
        let text = r#"[{"destination":"/x","source":"/y","options":["bind"],
            "uidMappings":[{"containerID":0,"hostID":1,"size":1}]}]"#;
        assert!(steps(text).unwrap_err().to_string().contains("together"));
    }
}
