//! What a configuration asks for, understood as a whole before anything is made.
//!
//! Reads the machine (which cgroup hierarchies there are, what namespaces and devices given by path
//! are) and changes nothing on it: whatever is wrong with a `config.json` and can be said without
//! trying is said here. Each part is planned by the module that carries it out.

use crate::mounts::plan::{self as mount_plan, Step};
use crate::namespaces::Namespaces;
use crate::process::{self, Surroundings};
use crate::rootfs::Propagation;
use crate::userns::Mappings;
use crate::{CreateRequest, Error, Result};
use crate::{cgroups, create, devices, seccomp, sysctl};
use oci::spec::{LinuxNamespaceType as Kind, Spec};
use std::path::PathBuf;

/// What [`crate::create`] is going to do.
#[derive(Debug)]
pub struct Plan {
    pub(crate) namespaces: Namespaces,
    pub(crate) mappings: Mappings,
    pub(crate) rootless: bool,
    pub(crate) process: process::Plan,
    pub(crate) rootfs: PathBuf,
    pub(crate) propagation: Propagation,
    pub(crate) steps: Vec<Step>,
    pub(crate) mount_label: Option<String>,
    pub(crate) sysctl: sysctl::Plan,
    pub(crate) devices: devices::Plan,
    pub(crate) cgroup: cgroups::Plan,
}

impl Plan {
    /// Understands the configuration of a request, or names the field that cannot be honoured.
    pub fn new(request: &CreateRequest<'_>) -> Result<Plan> {
        let spec = &request.config.spec;
        let linux = spec.linux().as_ref();
        let rootless = request.rootless.decide();
        let namespaces = Namespaces::plan(linux)?;
        check_namespaces(spec, &namespaces)?;
        let mappings = Mappings {
            users: linux.and_then(|linux| linux.uid_mappings().clone()).unwrap_or_default(),
            groups: linux.and_then(|linux| linux.gid_mappings().clone()).unwrap_or_default(),
        };
        let user_namespace = namespaces.has(Kind::User);
        let Some(process) = spec.process() else {
            return Err(Error::value("process", "is required"));
        };
        let filter = linux
            .and_then(|linux| linux.seccomp().as_ref())
            .map(|seccomp| seccomp::compile(seccomp, request.cache_dir))
            .transpose()?;
        let (preserve_fds, environment) = create::kept_descriptors(request.preserve_fds)?;
        let process = process::Plan::new(
            process,
            Surroundings {
                linux,
                filter,
                user_namespace,
                rootless,
                preserve_fds,
                plain_newlines: request.plain_newlines,
                environment,
                exec: false,
            },
        )?;
        let rootfs = spec.root().as_ref().map(|root| request.bundle.join(root.path()));
        let Some(rootfs) = rootfs else { return Err(Error::value("root", "is required")) };
        let propagation =
            Propagation::parse(linux.and_then(|linux| linux.rootfs_propagation().as_deref()))?;
        let steps = mount_plan::plan(spec, request.bundle)?;
        let mount_label =
            linux.and_then(|linux| linux.mount_label().clone()).filter(|label| !label.is_empty());
        if mount_label.is_some() && !process::lsm::has_selinux() {
            return Err(Error::value(
                "linux.mountLabel",
                "selinux label is specified in config, but selinux is disabled or not supported",
            ));
        }
        let sysctl = sysctl::plan(linux, &namespaces)?;
        let devices = devices::plan(spec)?;
        let owner = (namespaces.makes(Kind::Cgroup) && steps.iter().any(Step::is_writable_cgroup))
            .then(|| delegatee(spec, user_namespace.then_some(&mappings)))
            .flatten();
        let cgroup = cgroups::plan(&cgroups::Request {
            path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
            id: request.id,
            systemd: request.systemd_cgroup,
            rootless,
            resources: linux.and_then(|linux| linux.resources().as_ref()),
            annotations: spec.annotations().as_ref(),
            owner,
        })?;
        Ok(Plan {
            namespaces,
            mappings,
            rootless,
            process,
            rootfs,
            propagation,
            steps,
            mount_label,
            sysctl,
            devices,
            cgroup,
        })
    }
}

/// Who is given a cgroup that the container sees as its own and may write to: its first process'
/// user, by his ids outside ("Cgroup ownership" of the specification).
fn delegatee(spec: &Spec, mappings: Option<&Mappings>) -> Option<(u32, u32)> {
    let user = spec.process().as_ref()?.user();
    let (uid, gid) = (user.uid(), user.gid());
    match mappings {
        Some(all) => Mappings::outside(&all.users, uid).zip(Mappings::outside(&all.groups, gid)),
        None => Some((uid, gid)).filter(|ids| *ids != (0, 0)),
    }
}

/// What needs a namespace that the container does not have.
fn check_namespaces(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let without = |kind: Kind, field: &str, given: bool| {
        if given && !namespaces.has(kind) {
            let what = match kind {
                Kind::Uts => "a uts",
                Kind::Network => "a network",
                _ => "a mount",
            };
            return Err(Error::value(field, format!("needs {what} namespace in linux.namespaces")));
        }
        Ok(())
    };
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    let some = |list: Option<usize>| list.is_some_and(|length| length > 0);
    without(Kind::Uts, "hostname", named(spec.hostname()))?;
    without(Kind::Uts, "domainname", named(spec.domainname()))?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    let masked = linux.masked_paths().as_ref().map(Vec::len);
    without(Kind::Mount, "linux.maskedPaths", some(masked))?;
    let readonly = linux.readonly_paths().as_ref().map(Vec::len);
    without(Kind::Mount, "linux.readonlyPaths", some(readonly))?;
    let devices = linux.net_devices().as_ref().map(std::collections::HashMap::len);
    without(Kind::Network, "linux.netDevices", some(devices))
}
