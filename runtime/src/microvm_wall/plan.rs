//! What becomes of every field of config.json when the container runs in a microVM.
//!
//! One table says for each field whether the host honours it, the guest, both, or why it is
//! refused. A field that is in nobody's row is refused by its name: a newer specification does
//! not slip through undecided. Pure: no system call is made here.
//!
//! The limits are parted like this. The host's cgroup holds the monitor: `cpu`, `cpuset` and
//! `blockIO` limit its threads, which are the vCPUs and the devices; its memory limit is the
//! guest's memory and what the monitor itself needs ([`MONITOR_MEMORY`]), and swap is granted on
//! the host, where there may be some. The guest's cgroup holds the workload: `memory`, `pids`,
//! `hugepageLimits` and `devices` count and bar what the workload does, the monitor's own
//! threads and devices do not count.

use std::path::{Path, PathBuf};

use config::VmSize;
use oci::spec::{
    Hooks, LinuxDeviceCgroup, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxResources,
    Mount,
};
use serde_json::Value;
use thiserror::Error;

use crate::storage;

/// What the host's memory limit grants beyond guest memory: the monitor, its page tables, and
/// page cache of the files it serves, which the kernel gives back under pressure.
pub const MONITOR_MEMORY: i64 = 64 << 20;

/// Who honours a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The monitor or the runtime, on the host.
    Host,
    /// The `container` crate, in the guest.
    Guest,
    /// An object whose own fields are decided one by one.
    Fields(&'static [(&'static str, Who)]),
    /// Nobody, and why.
    Refused(&'static str),
}

use Who::{Fields, Guest, Host, Refused};

const NOT_LINUX: &str = "it is not for Linux";

const FIELDS: &[(&str, Who)] = &[
    ("ociVersion", Host),
    ("process", Fields(PROCESS)),
    ("root", Host),
    ("hostname", Guest),
    ("domainname", Guest),
    // Parted by storage::plan.
    ("mounts", Host),
    ("hooks", Fields(HOOKS)),
    ("annotations", Guest),
    ("linux", Fields(LINUX)),
    ("vm", Host),
    ("uidMappings", Refused(NOT_LINUX)),
    ("gidMappings", Refused(NOT_LINUX)),
    ("solaris", Refused(NOT_LINUX)),
    ("windows", Refused(NOT_LINUX)),
    ("zos", Refused(NOT_LINUX)),
];

const PROCESS: &[(&str, Who)] = &[
    ("terminal", Host),
    ("consoleSize", Guest),
    ("user", Guest),
    ("args", Guest),
    ("commandLine", Refused(NOT_LINUX)),
    ("env", Guest),
    ("cwd", Guest),
    ("capabilities", Guest),
    ("rlimits", Guest),
    ("noNewPrivileges", Guest),
    ("apparmorProfile", Guest),
    ("oomScoreAdj", Guest),
    ("selinuxLabel", Guest),
    ("ioPriority", Guest),
    ("scheduler", Guest),
    ("execCPUAffinity", Guest),
];

const HOOKS: &[(&str, Who)] = &[
    ("prestart", Host),
    ("createRuntime", Host),
    ("createContainer", Refused("its program is the host's and its namespaces are the guest's")),
    ("startContainer", Guest),
    ("poststart", Host),
    ("poststop", Host),
];

const LINUX: &[(&str, Who)] = &[
    ("uidMappings", Guest),
    ("gidMappings", Guest),
    ("timeOffsets", Guest),
    ("namespaces", Guest),
    ("devices", Guest),
    ("netDevices", Refused("the guest has no device but its loopback")),
    ("cgroupsPath", Host),
    ("resources", Fields(RESOURCES)),
    ("rootfsPropagation", Guest),
    ("seccomp", Fields(SECCOMP)),
    ("sysctl", Guest),
    ("maskedPaths", Guest),
    ("readonlyPaths", Guest),
    ("mountLabel", Guest),
    ("intelRdt", Refused("the guest's processes cannot be put into a resctrl group")),
    ("memoryPolicy", Refused("the guest has none of the host's memory nodes")),
    ("personality", Guest),
];

const RESOURCES: &[(&str, Who)] = &[
    ("devices", Guest),
    // Parted below.
    ("memory", Host),
    ("cpu", Host),
    ("pids", Guest),
    ("blockIO", Host),
    ("hugepageLimits", Guest),
    ("network", Refused("the guest's packets do not pass the host's net_cls and net_prio")),
    ("rdma", Refused("the guest has no RDMA device")),
    // Parted below.
    ("unified", Host),
];

const SECCOMP: &[(&str, Who)] = &[
    ("defaultAction", Guest),
    ("defaultErrnoRet", Guest),
    ("architectures", Guest),
    ("flags", Guest),
    ("listenerPath", Refused("a notify descriptor of the guest cannot be sent to the host")),
    ("listenerMetadata", Refused("a notify descriptor of the guest cannot be sent to the host")),
    ("syscalls", Guest),
];

/// Why a bundle cannot run in a microVM.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A field that this wall refuses.
    #[error("{field}: not possible in a microVM: {why}")]
    Refused {
        /// Its path.
        field: String,
        /// What is in the way.
        why: &'static str,
    },
    /// A field that is new.
    #[error("{field}: unknown to the microVM wall")]
    Undecided {
        /// Its path.
        field: String,
    },
    /// A flag of the command line that this wall refuses.
    #[error("{flag}: not possible with a microVM: {why}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is in the way.
        why: &'static str,
    },
    /// A mount that this wall refuses.
    #[error(transparent)]
    Storage(#[from] storage::PlanError),
    /// The configuration cannot be looked through.
    #[error("config.json cannot be looked through: {0}")]
    Unreadable(String),
}

/// The network namespace of the monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// A new one.
    Fresh,
    /// An existing one.
    Join(PathBuf),
}

/// What the host does and what the guest is told.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The mounts.
    pub storage: storage::Plan,
    /// The network namespace.
    pub network: Network,
    /// The limits of the monitor's cgroup.
    pub resources: LinuxResources,
    /// What the agent carries out.
    pub guest: oci::Config,
    /// The workload has a terminal.
    pub terminal: bool,
}

/// Decides about every field of `config`.
pub fn plan(config: &oci::Config, id: &str, bundle: &Path, size: VmSize) -> Result<Plan, Error> {
    let value =
        serde_json::to_value(config).map_err(|error| Error::Unreadable(error.to_string()))?;
    check("", &value, FIELDS)?;
    let storage = storage::plan(config, bundle)?;
    let network = network(config)?;
    let (host, inside) = part(&resources(config), size)?;
    Ok(Plan {
        guest: guest(config, id, &storage, inside),
        terminal: terminal(config),
        storage,
        network,
        resources: host,
    })
}

/// Parts limits into the host's and the guest's; `update` does it with new ones.
pub fn part(all: &LinuxResources, size: VmSize) -> Result<(LinuxResources, LinuxResources), Error> {
    let value = serde_json::to_value(all).map_err(|error| Error::Unreadable(error.to_string()))?;
    check("linux.resources", &value, RESOURCES)?;
    let mut host = LinuxResources::default();
    let mut guest = LinuxResources::default();
    // Without a rule of its own a cgroup gets the one for workloads, and /dev/kvm is not in it.
    let mut every = LinuxDeviceCgroup::default();
    every.set_allow(true);
    every.set_access(Some("rwm".to_owned()));
    host.set_devices(Some(vec![every]));
    host.set_cpu(all.cpu().clone());
    host.set_block_io(all.block_io().clone());
    guest.set_devices(all.devices().clone());
    guest.set_pids(*all.pids());
    guest.set_hugepage_limits(all.hugepage_limits().clone());
    if let Some(memory) = all.memory() {
        let (outside, inside) = part_memory(memory, size)?;
        host.set_memory(Some(outside));
        guest.set_memory(Some(inside));
    }
    for (file, content) in all.unified().iter().flatten() {
        let mine = match file.split('.').next() {
            Some("cpu" | "cpuset" | "io") => &mut host,
            Some("memory" | "pids" | "hugetlb" | "misc") => &mut guest,
            _ => {
                return Err(Error::Refused {
                    field: format!("linux.resources.unified[\"{file}\"]"),
                    why: "neither the monitor's cgroup nor the guest's is known to have it",
                });
            }
        };
        let mut files = mine.unified().clone().unwrap_or_default();
        files.insert(file.clone(), content.clone());
        mine.set_unified(Some(files));
    }
    Ok((host, guest))
}

fn part_memory(all: &LinuxMemory, size: VmSize) -> Result<(LinuxMemory, LinuxMemory), Error> {
    let mut host = LinuxMemory::default();
    let mut guest = *all;
    let whole = i64::try_from(size.memory).unwrap_or(i64::MAX).saturating_add(MONITOR_MEMORY);
    let limit = all.limit().filter(|limit| *limit > 0);
    if limit.is_some() {
        host.set_limit(Some(whole));
    }
    // The guest has no swap of its own: what is granted is granted on the host. 0 is what engines
    // write for unset.
    match (all.swap().filter(|swap| *swap != 0), limit) {
        (None, _) => {}
        (Some(swap), _) if swap < 0 => {
            host.set_swap(Some(swap));
        }
        (Some(swap), Some(limit)) if swap >= limit => {
            host.set_swap(Some(whole.saturating_add(swap - limit)));
        }
        (Some(_), limit) => {
            let why = match limit {
                Some(_) => "it is less than memory.limit, which it includes",
                None => "it cannot be limited without memory.limit",
            };
            return Err(Error::Refused { field: "linux.resources.memory.swap".to_owned(), why });
        }
    }
    host.set_swappiness(all.swappiness());
    guest.set_swap(None);
    guest.set_swappiness(None);
    Ok((host, guest))
}

/// Is nothing asked for by this value?
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn check(at: &str, value: &Value, fields: &[(&str, Who)]) -> Result<(), Error> {
    let Value::Object(object) = value else { return Ok(()) };
    for (name, value) in object {
        if is_empty(value) {
            continue;
        }
        let field = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match fields.iter().find(|(known, _)| known == name) {
            Some((_, Host | Guest)) => {}
            Some((_, Fields(inner))) => check(&field, value, inner)?,
            Some((_, Refused(why))) => return Err(Error::Refused { field, why }),
            None => return Err(Error::Undecided { field }),
        }
    }
    Ok(())
}

fn terminal(config: &oci::Config) -> bool {
    config.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
}

fn resources(config: &oci::Config) -> LinuxResources {
    let given = config.spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    given.unwrap_or_else(|| {
        let mut none = LinuxResources::default();
        none.set_devices(None);
        none
    })
}

fn namespaces(config: &oci::Config) -> impl Iterator<Item = (usize, &LinuxNamespace)> {
    let linux = config.spec.linux().as_ref();
    linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten().enumerate()
}

/// The network namespace; a path for any other one names a place the guest is not in.
fn network(config: &oci::Config) -> Result<Network, Error> {
    let mut network = None;
    for (index, namespace) in namespaces(config) {
        match (namespace.typ(), namespace.path()) {
            (LinuxNamespaceType::Network, None) => network = Some(Network::Fresh),
            (LinuxNamespaceType::Network, Some(path)) => {
                network = Some(Network::Join(path.clone()));
            }
            (_, None) => {}
            (_, Some(_)) => {
                return Err(Error::Refused {
                    field: format!("linux.namespaces[{index}].path"),
                    why: "the guest's processes cannot enter a namespace of the host",
                });
            }
        }
    }
    network.ok_or(Error::Refused {
        field: "linux.namespaces".to_owned(),
        why: "without a network namespace the host's network is asked for",
    })
}

/// config.json as the guest carries it out.
fn guest(
    config: &oci::Config,
    id: &str,
    storage: &storage::Plan,
    resources: LinuxResources,
) -> oci::Config {
    let mut spec = config.spec.clone();
    let mut root = oci::spec::Root::default();
    root.set_path(storage.root.clone());
    root.set_readonly(Some(storage.readonly));
    spec.set_root(Some(root));
    spec.set_mounts(Some(storage.guest.iter().map(Mount::clone).collect()));
    let start = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().clone());
    spec.set_hooks(start.map(|hooks| {
        let mut inside = Hooks::default();
        inside.set_start_container(Some(hooks));
        inside
    }));
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(Some(Path::new("/hull").join(id)));
        linux.set_resources(Some(resources));
        // The guest's network is the container's alone; one more namespace would only cost.
        // A user namespace has to own its network to have any say in it.
        let user = linux
            .namespaces()
            .iter()
            .flatten()
            .any(|namespace| namespace.typ() == LinuxNamespaceType::User);
        let net = linux.sysctl().iter().flatten().any(|(name, _)| name.starts_with("net"));
        if !user && !net {
            let others = linux.namespaces().iter().flatten();
            let others =
                others.filter(|n| n.typ() != LinuxNamespaceType::Network).cloned().collect();
            linux.set_namespaces(Some(others));
        }
    }
    oci::Config { spec, vm: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: VmSize = VmSize { vcpus: 1, memory: 512 << 20 };

    fn planned(rest: &str) -> Result<Plan, Error> {
        let text = format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},
                "process":{{"cwd":"/","args":["true"],"user":{{"uid":0,"gid":0}}}},{rest}}}"#
        );
        let config = oci::parse(text.as_bytes()).unwrap();
        plan(&config, "id", Path::new("/bundle"), SIZE)
    }

    fn linux(fields: &str) -> Result<Plan, Error> {
        planned(&format!(
            r#""linux":{{"namespaces":[{{"type":"pid"}},{{"type":"network"}}],{fields}}}"#
        ))
    }

    fn refused(result: Result<Plan, Error>) -> String {
        result.expect_err("refused").to_string()
    }

    /// Everything that oci-spec can say has a row here; its `Default` is far from empty.
    #[test]
    fn every_known_field_is_decided() {
        let names = |value: Value| match value {
            Value::Object(object) => object.into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
            _ => Vec::new(),
        };
        let spec = oci::spec::Spec::default();
        let linux = spec.linux().clone().unwrap();
        for (value, table) in [
            (serde_json::to_value(&spec).unwrap(), FIELDS),
            (serde_json::to_value(spec.process()).unwrap(), PROCESS),
            (serde_json::to_value(&linux).unwrap(), LINUX),
            (serde_json::to_value(linux.resources()).unwrap(), RESOURCES),
        ] {
            for name in names(value) {
                assert!(table.iter().any(|(known, _)| *known == name), "{name} is undecided");
            }
        }
    }

    /// The documentation says of each field what the tables here say.
    #[test]
    fn the_documentation_has_a_row_for_every_field() {
        fn hold(at: &str, fields: &[(&str, Who)], text: &str) {
            for (name, who) in fields {
                let field = format!("{at}{name}");
                let said = match who {
                    Fields(inner) => {
                        hold(&format!("{field}."), inner, text);
                        continue;
                    }
                    Host => "host".to_owned(),
                    Guest => "guest".to_owned(),
                    Refused(why) => format!("refused: {why} |"),
                };
                let start = format!("| `{field}` |");
                let row = text.lines().find(|line| line.starts_with(&start));
                let row = row.unwrap_or_else(|| panic!("{field} has no row"));
                let cell = row.split(" | ").nth(2).unwrap_or_default();
                assert!(cell.starts_with(&said), "{field}: {cell:?} is not {said:?}");
            }
        }
        hold("", FIELDS, include_str!("../../../docs/fields.md"));
    }

    #[test]
    fn an_undecided_field_is_refused_by_name() {
        let value = serde_json::json!({"linux": {"quantumEntanglement": {"pairs": 2}}});
        let error = check("", &value, FIELDS).unwrap_err();
        assert_eq!(error.to_string(), "linux.quantumEntanglement: unknown to the microVM wall");
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        let text = refused(linux(r#""intelRdt":{"closID":"x"}"#));
        assert!(text.starts_with("linux.intelRdt: "), "{text}");
        let text = refused(linux(r#""resources":{"rdma":{"mlx5":{"hcaHandles":3}}}"#));
        assert!(text.starts_with("linux.resources.rdma: "), "{text}");
        let text = refused(planned(
            r#""linux":{"namespaces":[{"type":"network"},{"type":"pid","path":"/proc/1/ns/pid"}]}"#,
        ));
        assert!(text.starts_with("linux.namespaces[1].path: "), "{text}");
        let text = refused(planned(r#""linux":{"namespaces":[{"type":"pid"}]}"#));
        assert!(text.starts_with("linux.namespaces: "), "{text}");
        let text = refused(planned(r#""hooks":{"createContainer":[{"path":"/bin/x"}]}"#));
        assert!(text.starts_with("hooks.createContainer: "), "{text}");
    }

    #[test]
    fn empty_objects_ask_for_nothing() {
        linux(r#""intelRdt":{},"netDevices":{},"resources":{"network":{}}"#).unwrap();
    }

    #[test]
    fn cpu_is_the_hosts_and_pids_are_the_guests() {
        let plan = linux(
            r#""resources":{"cpu":{"quota":50000,"period":100000},"pids":{"limit":10},
                "devices":[{"allow":false,"access":"rwm"}],
                "unified":{"memory.high":"1000","cpu.weight":"3"}}"#,
        )
        .unwrap();
        assert!(plan.resources.cpu().is_some() && plan.resources.pids().is_none());
        assert!(plan.resources.devices().as_ref().unwrap()[0].allow());
        assert!(plan.resources.unified().as_ref().unwrap().contains_key("cpu.weight"));
        let linux = plan.guest.spec.linux().clone().unwrap();
        let inside = linux.resources().clone().unwrap();
        assert!(inside.cpu().is_none() && inside.pids().is_some());
        assert_eq!(inside.devices().as_ref().unwrap().len(), 1);
        assert!(inside.unified().as_ref().unwrap().contains_key("memory.high"));
    }

    #[test]
    fn memory_is_limited_on_both_sides_and_swap_on_the_host() {
        let plan = linux(r#""resources":{"memory":{"limit":104857600,"swap":209715200}}"#).unwrap();
        let outside = plan.resources.memory().unwrap();
        let whole = (512 << 20) + MONITOR_MEMORY;
        assert_eq!(outside.limit(), Some(whole));
        assert_eq!(outside.swap(), Some(whole + 104857600));
        let linux = plan.guest.spec.linux().clone().unwrap();
        let inside = linux.resources().clone().unwrap().memory().unwrap();
        assert_eq!((inside.limit(), inside.swap()), (Some(104857600), None));
    }

    #[test]
    fn swap_that_cannot_be_granted_is_refused_and_no_limit_is_the_hosts() {
        for memory in [r#"{"swap":5}"#, r#"{"limit":104857600,"swap":5}"#] {
            let text = refused(linux(&format!(r#""resources":{{"memory":{memory}}}"#)));
            assert!(text.starts_with("linux.resources.memory.swap: "), "{text}");
        }
        let swap = |memory: &str| {
            let plan = linux(&format!(r#""resources":{{"memory":{memory}}}"#)).unwrap();
            plan.resources.memory().unwrap().swap()
        };
        assert_eq!(swap(r#"{"swap":-1}"#), Some(-1));
        assert_eq!(swap(r#"{"limit":104857600,"swap":0}"#), None);
    }

    #[test]
    fn the_guest_gets_paths_of_the_prepared_tree_and_its_own_hooks() {
        let plan = planned(
            r#""hooks":{"poststop":[{"path":"/a"}],"startContainer":[{"path":"/b"}]},
               "linux":{"namespaces":[{"type":"network"},{"type":"mount"}],"cgroupsPath":"/x/y"}"#,
        )
        .unwrap();
        assert_eq!(plan.network, Network::Fresh);
        let spec = &plan.guest.spec;
        assert_eq!(spec.root().as_ref().unwrap().path(), Path::new("/hull/rootfs"));
        let hooks = spec.hooks().as_ref().unwrap();
        assert!(hooks.start_container().is_some() && hooks.poststop().is_none());
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/hull/id")));
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 1);
    }
}
