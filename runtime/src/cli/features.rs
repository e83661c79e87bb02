//! `features`: what this build honours, as the specification's features document (features.md).

use super::print;
use crate::{Error, Result};
use container::hooks::Kind;
use container::process;
use container::seccomp::features as seccomp;
use serde_json::{Value, json};

/// `hull features`.
pub fn features() -> Result<()> {
    let text = serde_json::to_string_pretty(&document())
        .map_err(|source| Error::Encode { what: "features", source })?;
    print(&(text + "\n"))
}

/// In the order that they run.
const HOOKS: [Kind; 6] = [
    Kind::Prestart,
    Kind::CreateRuntime,
    Kind::CreateContainer,
    Kind::StartContainer,
    Kind::Poststart,
    Kind::Poststop,
];

fn document() -> Value {
    json!({
        "ociVersionMin": oci::SPEC_VERSION_MIN,
        "ociVersionMax": oci::SPEC_VERSION,
        "hooks": HOOKS.map(|kind| kind.name()),
        "mountOptions": container::mounts::OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": process::caps::all_names().collect::<Vec<_>>(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": true,
                "rdma": true,
            },
            "seccomp": seccomp_document(),
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": {
                "modes": process::MEMORY_POLICY_MODES,
                "flags": process::MEMORY_POLICY_FLAGS,
            },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": {
            "run.hull.version": env!("CARGO_PKG_VERSION"),
            "run.hull.isolation": "container,microvm",
        },
        "potentiallyUnsafeConfigAnnotations": ["run.hull.", "org.systemd.property."],
    })
}

fn seccomp_document() -> Value {
    json!({
        "enabled": true,
        "actions": seccomp::ACTIONS,
        "operators": seccomp::OPERATORS,
        "archs": seccomp::architectures(),
        "knownFlags": seccomp::known_flags(),
        "supportedFlags": seccomp::supported_flags(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_specifications_types() {
        let features: oci::spec::Features = serde_json::from_value(document()).unwrap();
        assert_eq!(features.oci_version_max(), oci::SPEC_VERSION);
        let linux = features.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 8);
    }

    #[test]
    fn what_it_lists_is_what_the_code_knows() {
        let document = document();
        let list = |pointer: &str| -> Vec<String> {
            let value = document.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
            serde_json::from_value(value.clone()).unwrap()
        };
        assert_eq!(list("/mountOptions"), container::mounts::OPTIONS);
        let capabilities = list("/linux/capabilities");
        assert_eq!(capabilities, process::caps::all_names().collect::<Vec<_>>());
        for name in capabilities {
            serde_json::from_value::<oci::spec::Capability>(name.into()).unwrap();
        }
        for (pointer, names) in [
            ("/linux/seccomp/actions", seccomp::ACTIONS),
            ("/linux/seccomp/operators", seccomp::OPERATORS),
            ("/linux/memoryPolicy/modes", process::MEMORY_POLICY_MODES),
            ("/linux/memoryPolicy/flags", process::MEMORY_POLICY_FLAGS),
        ] {
            assert_eq!(list(pointer), names, "{pointer}");
        }
        assert_eq!(list("/linux/seccomp/archs"), seccomp::architectures());
        let known = list("/linux/seccomp/knownFlags");
        assert!(list("/linux/seccomp/supportedFlags").iter().all(|flag| known.contains(flag)));
        // Of these the specification's types know a member for each thing that can be had.
        let features: oci::spec::Features = serde_json::from_value(document.clone()).unwrap();
        let linux = features.linux().clone().unwrap();
        assert!(linux.memory_policy().is_some() && linux.net_devices().is_some());
        assert!(linux.intel_rdt().is_some() && linux.mount_extensions().is_some());
    }
}
