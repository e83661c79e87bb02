//! The plan: host's steps and guest's mounts, as plain data.

use std::path::{Path, PathBuf};

use hull_agent::link::{BINDS, ROOTFS, TREE};
use oci::spec::{LinuxIdMapping, Mount};
use thiserror::Error;

/// File systems that are views of a kernel: the guest's own is meant.
const OF_THE_GUEST: [&str; 17] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "ramfs",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Options of mount(8) that the `mount` system call takes as flags; the others are data.
const FLAG_OPTIONS: [&str; 33] = [
    "async",
    "atime",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "relatime",
    "remount",
    "ro",
    "rprivate",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
];

/// What the host does and what is left to the guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In the monitor's mount namespace, in this order.
    pub host: Vec<HostStep>,
    /// `root.path` as the guest sees it.
    pub root: PathBuf,
    /// `root.readonly`.
    pub readonly: bool,
    /// `mounts` as the guest carries them out.
    pub guest: Vec<Mount>,
}

/// One thing to appear in the prepared tree.
#[derive(Debug, Clone, PartialEq)]
pub struct HostStep {
    /// Where, relative to the tree.
    pub target: PathBuf,
    /// The field of config.json that asks for it.
    pub field: String,
    /// What is to be there.
    pub what: What,
}

/// What appears at a place of the tree.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A file or directory of the host.
    Bind {
        /// Its path on the host.
        source: PathBuf,
        /// With what is mounted below it (`rbind`).
        recursive: bool,
        /// `ro`, or for what is mounted below too `rro`.
        readonly: ReadOnly,
        /// What the host mounts below the source later appears too (`slave`).
        follow: bool,
        /// Owners are mapped.
        idmap: Option<IdMap>,
    },
    /// An overlay, mounted by the host.
    Overlay {
        /// Its read-only layers, upper and work directory, as mount data.
        data: String,
        /// `ro`.
        readonly: bool,
    },
}

/// How far down a bind is read-only on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// Not at all.
    No,
    /// The mount itself.
    Top,
    /// With everything below.
    Recursive,
}

/// An idmapped mount.
#[derive(Debug, Clone, PartialEq)]
pub struct IdMap {
    /// `uidMappings` of the mount.
    pub uids: Vec<LinuxIdMapping>,
    /// `gidMappings` of the mount.
    pub gids: Vec<LinuxIdMapping>,
    /// With what is mounted below (`ridmap`).
    pub recursive: bool,
}

/// A mount that a microVM cannot have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A file system that is neither the guest's nor one the host prepares.
    #[error("{field}.type: a microVM cannot have a mount of type \"{kind}\"")]
    Type {
        /// The mount.
        field: String,
        /// Its type.
        kind: String,
    },
    /// A mount option that cannot be honoured across the wall.
    #[error("{field}.options: \"{option}\" cannot be had in a microVM: {why}")]
    Option {
        /// The mount.
        field: String,
        /// The option.
        option: String,
        /// What is in the way.
        why: &'static str,
    },
    /// A bind without a source.
    #[error("{field}.source: a bind mount needs one")]
    NoSource {
        /// The mount.
        field: String,
    },
    /// `idmap` without mappings of its own.
    #[error("{field}: an idmapped mount in a microVM needs uidMappings and gidMappings of its own")]
    NoMappings {
        /// The mount.
        field: String,
    },
    /// There is no root.
    #[error("root: missing")]
    NoRoot,
}

/// Says where each mount of the bundle is carried out.
pub fn plan(config: &oci::Config, bundle: &Path) -> Result<Plan, Error> {
    let root = config.spec.root().as_ref().ok_or(Error::NoRoot)?;
    let mut host = vec![HostStep {
        target: PathBuf::from(ROOTFS),
        field: "root.path".to_owned(),
        what: What::Bind {
            source: bundle.join(root.path()),
            recursive: true,
            // Missing mount points are still to be made in it.
            readonly: ReadOnly::No,
            follow: false,
            idmap: None,
        },
    }];
    let mut guest = Vec::new();
    for (index, mount) in config.spec.mounts().iter().flatten().enumerate() {
        let field = format!("mounts[{index}]");
        match host_part(mount, bundle, &field)? {
            None => guest.push(mount.clone()),
            Some(what) => {
                let target = Path::new(BINDS).join(index.to_string());
                guest.push(guest_part(mount, &target));
                host.push(HostStep { target, field, what });
            }
        }
    }
    Ok(Plan {
        host,
        root: Path::new(TREE).join(ROOTFS),
        readonly: root.readonly().unwrap_or(false),
        guest,
    })
}

fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}

/// What the host has to do for a mount; `None` if it is the guest's alone.
fn host_part(mount: &Mount, bundle: &Path, field: &str) -> Result<Option<What>, Error> {
    let has = |name: &str| options(mount).any(|option| option == name);
    if has("bind") || has("rbind") || mount.typ().as_deref() == Some("bind") {
        return bind(mount, bundle, field).map(Some);
    }
    match mount.typ().as_deref() {
        Some("overlay") => {
            let mapped = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|l| !l.is_empty());
            if has("idmap")
                || has("ridmap")
                || mapped(mount.uid_mappings())
                || mapped(mount.gid_mappings())
            {
                return Err(Error::Option {
                    field: field.to_owned(),
                    option: "idmap".to_owned(),
                    why: "only bind mounts can be id-mapped",
                });
            }
            let data: Vec<_> = options(mount).filter(|o| !FLAG_OPTIONS.contains(o)).collect();
            Ok(Some(What::Overlay { data: data.join(","), readonly: has("ro") }))
        }
        Some(kind) if OF_THE_GUEST.contains(&kind) => Ok(None),
        Some(kind) => Err(Error::Type { field: field.to_owned(), kind: kind.to_owned() }),
        None => Err(Error::Type { field: field.to_owned(), kind: String::new() }),
    }
}

fn bind(mount: &Mount, bundle: &Path, field: &str) -> Result<What, Error> {
    let source = mount
        .source()
        .as_ref()
        .filter(|source| !source.as_os_str().is_empty())
        .ok_or_else(|| Error::NoSource { field: field.to_owned() })?;
    let mut recursive = mount.typ().as_deref() == Some("rbind");
    let mut readonly = ReadOnly::No;
    let mut follow = false;
    let mut idmapped = None;
    for option in options(mount) {
        match option {
            "rbind" => recursive = true,
            "ro" => readonly = ReadOnly::Top,
            "rro" => readonly = ReadOnly::Recursive,
            "rw" => readonly = ReadOnly::No,
            "slave" | "rslave" => follow = true,
            "private" | "rprivate" | "unbindable" | "runbindable" => follow = false,
            "shared" | "rshared" => {
                return Err(Error::Option {
                    field: field.to_owned(),
                    option: option.to_owned(),
                    why: "what the guest mounts cannot appear on the host",
                });
            }
            "idmap" => idmapped = Some(false),
            "ridmap" => idmapped = Some(true),
            _ => {}
        }
    }
    let (uids, gids) = (mount.uid_mappings(), mount.gid_mappings());
    let idmap = match (uids, gids) {
        (Some(uids), Some(gids)) if !uids.is_empty() && !gids.is_empty() => Some(IdMap {
            uids: uids.clone(),
            gids: gids.clone(),
            recursive: idmapped.unwrap_or(false),
        }),
        _ if idmapped.is_some() => return Err(Error::NoMappings { field: field.to_owned() }),
        _ => None,
    };
    Ok(What::Bind { source: bundle.join(source), recursive, readonly, follow, idmap })
}

/// The bind that the guest makes of what the host prepared. Everything that is an attribute of
/// a mount (read-only, nosuid, propagation, ...) is asked of the guest too.
fn guest_part(mount: &Mount, target: &Path) -> Mount {
    let mut guest = Mount::default();
    guest.set_destination(mount.destination().clone());
    guest.set_typ(Some("bind".to_owned()));
    guest.set_source(Some(Path::new(TREE).join(target)));
    let overlay = mount.typ().as_deref() == Some("overlay");
    let mut kept: Vec<String> = options(mount)
        .filter(|option| !matches!(*option, "idmap" | "ridmap"))
        .filter(|option| !overlay || FLAG_OPTIONS.contains(option))
        .map(str::to_owned)
        .collect();
    if !kept.iter().any(|option| option == "bind" || option == "rbind") {
        kept.push("rbind".to_owned());
    }
    guest.set_options(Some(kept));
    guest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mounts: &str) -> oci::Config {
        let text = format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs","readonly":true}},"mounts":{mounts}}}"#
        );
        oci::parse(text.as_bytes()).unwrap()
    }

    fn planned(mounts: &str) -> Result<Plan, Error> {
        plan(&config(mounts), Path::new("/bundle"))
    }

    #[test]
    fn views_of_a_kernel_are_left_to_the_guest() {
        let plan = planned(
            r#"[{"destination":"/proc","type":"proc","source":"proc"},
                {"destination":"/tmp","type":"tmpfs","options":["size=1m","tmpcopyup"]}]"#,
        )
        .unwrap();
        assert_eq!(plan.host.len(), 1, "only the root: {:?}", plan.host);
        assert_eq!(plan.guest.len(), 2);
        assert_eq!(plan.root, Path::new("/hull/rootfs"));
        assert!(plan.readonly);
    }

    #[test]
    fn a_bind_is_prepared_by_the_host_and_bound_by_the_guest_in_its_place() {
        let plan = planned(
            r#"[{"destination":"/run","type":"tmpfs"},
                {"destination":"/run/secrets","source":"secrets","options":["rbind","ro","nosuid"]}]"#,
        )
        .unwrap();
        assert_eq!(plan.host[1].target, Path::new("binds/1"));
        assert_eq!(
            plan.host[1].what,
            What::Bind {
                source: PathBuf::from("/bundle/secrets"),
                recursive: true,
                readonly: ReadOnly::Top,
                follow: false,
                idmap: None,
            }
        );
        let bound = &plan.guest[1];
        assert_eq!(bound.source().as_deref(), Some(Path::new("/hull/binds/1")));
        assert_eq!(bound.options().as_ref().unwrap(), &["rbind", "ro", "nosuid"]);
    }

    #[test]
    fn an_idmapped_bind_is_mapped_on_the_host_alone() {
        let maps = r#"[{"containerID":0,"hostID":1000,"size":10}]"#;
        let mounts = format!(
            r#"[{{"destination":"/v","source":"/v","options":["bind","ridmap"],
                "uidMappings":{maps},"gidMappings":{maps}}}]"#
        );
        let plan = planned(&mounts).unwrap();
        let What::Bind { idmap: Some(idmap), .. } = &plan.host[1].what else { panic!() };
        assert!(idmap.recursive);
        assert_eq!(plan.guest[0].options().as_ref().unwrap(), &["bind"]);
        assert!(plan.guest[0].uid_mappings().is_none());
    }

    #[test]
    fn an_overlay_is_mounted_by_the_host() {
        let plan = planned(
            r#"[{"destination":"/o","type":"overlay","source":"overlay",
                "options":["lowerdir=/a:/b","upperdir=/u","workdir=/w","nodev"]}]"#,
        )
        .unwrap();
        assert_eq!(
            plan.host[1].what,
            What::Overlay {
                data: "lowerdir=/a:/b,upperdir=/u,workdir=/w".to_owned(),
                readonly: false
            }
        );
        assert_eq!(plan.guest[0].options().as_ref().unwrap(), &["nodev", "rbind"]);
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        let error = planned(r#"[{"destination":"/d","type":"ext4","source":"/dev/sda"}]"#);
        assert_eq!(
            error.unwrap_err().to_string(),
            "mounts[0].type: a microVM cannot have a mount of type \"ext4\""
        );
        let error = planned(r#"[{"destination":"/d","source":"/d","options":["bind","rshared"]}]"#);
        assert!(error.unwrap_err().to_string().starts_with("mounts[0].options: \"rshared\""));
        let error =
            planned(r#"[{"destination":"/d","type":"overlay","options":["lowerdir=/a","idmap"]}]"#);
        assert!(error.unwrap_err().to_string().starts_with("mounts[0].options: \"idmap\""));
        let error = planned(r#"[{"destination":"/d","type":"bind"}]"#);
        assert_eq!(error, Err(Error::NoSource { field: "mounts[0]".to_owned() }));
    }
}
