//! The bundle each contender gets: the user's config with its rootfs where it
//! is, and only what measuring needs changed. The user's folder is not
//! written to.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::machine;

/// What the container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// The bundle's own command.
    Own,
    /// A sleep, so that a running container can be looked at.
    Hold,
}

/// A config read once, of which variants are written.
#[derive(Debug)]
pub struct Bundle {
    config: Map<String, Value>,
    hold: Option<&'static str>,
}

impl Bundle {
    /// Reads `<bundle>/config.json`.
    pub fn load(bundle: &Path, docker_like: bool) -> Result<Self, Error> {
        let file = |path: &Path, source| Error::File { path: path.to_owned(), source };
        let path = bundle.join("config.json");
        let text = fs::read_to_string(&path).map_err(|source| file(&path, source))?;
        let mut config: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|source| Error::Json { path: path.clone(), source })?;
        let missing = |field| Error::Config { path: path.clone(), field };
        let root = config
            .get("root")
            .and_then(|root| root["path"].as_str())
            .ok_or(missing("root.path"))?;
        let bundle = fs::canonicalize(bundle).map_err(|source| file(bundle, source))?;
        let rootfs = bundle.join(root);
        let rootfs = fs::canonicalize(&rootfs).map_err(|source| file(&rootfs, source))?;
        if !config.get("process").is_some_and(Value::is_object) {
            return Err(missing("process"));
        }
        if docker_like {
            config = docker_config(&config["process"], &rootfs);
        }
        absolute_sources(&mut config, &bundle);
        config["root"]["path"] = json!(rootfs);
        config["process"]["terminal"] = json!(false);
        // Runs of many contenders share neither a cgroup nor a terminal.
        if let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) {
            linux.remove("cgroupsPath");
        }
        let hold = ["/bin/sleep", "/usr/bin/sleep"]
            .into_iter()
            .find(|path| rootfs.join(&path[1..]).symlink_metadata().is_ok());
        Ok(Self { config, hold })
    }

    /// Whether a container of it can be kept running.
    pub fn can_hold(&self) -> bool {
        self.hold.is_some()
    }

    /// Writes a variant into `dir`, made for it.
    pub fn write(
        &self,
        dir: &Path,
        workload: Workload,
        annotations: &[(&str, String)],
    ) -> Result<(), Error> {
        let mut config = self.config.clone();
        if workload == Workload::Hold {
            let sleep = self.hold.ok_or(Error::NoHold)?;
            config["process"]["args"] = json!([sleep, "1000"]);
        }
        if !annotations.is_empty() {
            let all = config.entry("annotations").or_insert_with(|| json!({}));
            for (key, value) in annotations {
                all[*key] = json!(value);
            }
        }
        for name in ["hosts", "hostname", "resolv.conf"] {
            let path = dir.join(name);
            fs::create_dir_all(dir)
                .and_then(|()| fs::write(&path, "127.0.0.1 localhost\n"))
                .map_err(|source| Error::File { path, source })?;
        }
        for mount in config.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(name) =
                mount["source"].as_str().and_then(|source| source.strip_prefix(BESIDE))
            {
                mount["source"] = json!(dir.join(name));
            }
        }
        let path = dir.join("config.json");
        fs::write(&path, Value::Object(config).to_string())
            .map_err(|source| Error::File { path, source })
    }
}

/// Marks a source that stands beside the config that is written.
const BESIDE: &str = "beside:";

/// A relative source of a bind is relative to the bundle; the variant is elsewhere.
fn absolute_sources(config: &mut Map<String, Value>, bundle: &Path) {
    for mount in config.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        let bind = mount["options"].as_array().is_some_and(|options| {
            options.iter().any(|option| option == "bind" || option == "rbind")
        });
        if let (true, Some(source)) = (bind, mount["source"].as_str())
            && !source.starts_with('/')
            && !source.starts_with(BESIDE)
        {
            mount["source"] = json!(bundle.join(source));
        }
    }
}

/// System calls that Docker's default profile allows whatever their arguments,
/// for the capabilities below.
const SYSCALLS: &str = include_str!("docker-syscalls.txt");

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// What Docker 20.10 hands a runtime for `docker run` without options, with
/// the limits that people set (memory, CPU, pids), for this process and root.
fn docker_config(process: &Value, rootfs: &Path) -> Map<String, Value> {
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
        ),
    ];
    for name in ["resolv.conf", "hostname", "hosts"] {
        // A target that is not there would have to be made in the user's rootfs.
        if rootfs.join("etc").join(name).is_file() {
            mounts.push(mount(
                &format!("/etc/{name}"),
                "bind",
                &format!("{BESIDE}{name}"),
                &["rbind", "rprivate"],
            ));
        }
    }
    let mut namespaces = vec!["mount", "network", "uts", "pid", "ipc"];
    if machine::unified() {
        namespaces.push("cgroup");
    }
    let namespaces: Vec<Value> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    let device = |allow: bool, numbers: Option<(u32, u32)>| match numbers {
        Some((major, minor)) => {
            json!({"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"})
        }
        None => json!({"allow": allow, "access": "rwm"}),
    };
    let mut devices = vec![device(false, None)];
    devices.extend(
        [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)].map(|numbers| device(true, Some(numbers))),
    );
    devices.push(device(false, Some((10, 229))));
    let value = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": process.get("user").cloned().unwrap_or_else(|| json!({"uid": 0, "gid": 0})),
            "args": process.get("args"),
            "env": process.get("env"),
            "cwd": process.get("cwd").cloned().unwrap_or_else(|| json!("/")),
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "oomScoreAdj": 0,
        },
        "root": {"path": ""},
        "hostname": "0123456789ab",
        "mounts": mounts,
        "linux": {
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"},
            "resources": {
                "devices": devices,
                "memory": {"limit": 512 << 20, "swap": 512 << 20, "disableOOMKiller": false},
                "cpu": {"shares": 1024, "quota": 200_000, "period": 100_000},
                "pids": {"limit": 512},
            },
            "namespaces": namespaces,
            "seccomp": seccomp(),
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    match value {
        Value::Object(config) => config,
        _ => Map::new(),
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

fn seccomp() -> Value {
    let allow = "SCMP_ACT_ALLOW";
    let names: Vec<&str> = SYSCALLS.split_whitespace().collect();
    let mut rules = vec![json!({"names": names, "action": allow})];
    for persona in [0u64, 8, 0x20000, 0x20008, 0xffff_ffff] {
        rules.push(json!({"names": ["personality"], "action": allow,
            "args": [{"index": 0, "value": persona, "op": "SCMP_CMP_EQ"}]}));
    }
    // No new namespaces: none of the CLONE_NEW* bits.
    rules.push(json!({"names": ["clone"], "action": allow,
        "args": [{"index": 0, "value": 0x7e02_0000u64, "op": "SCMP_CMP_MASKED_EQ"}]}));
    rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("compare-bench-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("b/rootfs/bin")).unwrap();
        fs::write(dir.join("b/rootfs/bin/sleep"), "").unwrap();
        let config = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "process": {"terminal": true, "cwd": "/", "args": ["true"]},
            "mounts": [{"destination": "/x", "source": "data", "options": ["bind"]}],
            "linux": {"cgroupsPath": "/fixed"},
        });
        fs::write(dir.join("b/config.json"), config.to_string()).unwrap();
        dir
    }

    fn read(dir: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
    }

    #[test]
    fn a_variant_keeps_the_command_and_moves_away() {
        let dir = scratch("own");
        let bundle = Bundle::load(&dir.join("b"), false).unwrap();
        bundle
            .write(&dir.join("v"), Workload::Own, &[("run.hull.isolation", "container".into())])
            .unwrap();
        let config = read(&dir.join("v"));
        let home = fs::canonicalize(dir.join("b")).unwrap();
        assert_eq!(config["root"]["path"], json!(home.join("rootfs")));
        assert_eq!(config["mounts"][0]["source"], json!(home.join("data")));
        assert_eq!(config["process"]["terminal"], false);
        assert_eq!(config["process"]["args"], json!(["true"]));
        assert_eq!(config["linux"].get("cgroupsPath"), None);
        assert_eq!(config["annotations"]["run.hull.isolation"], "container");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn dockers_config_holds_the_same_process() {
        let dir = scratch("docker");
        let bundle = Bundle::load(&dir.join("b"), true).unwrap();
        bundle.write(&dir.join("v"), Workload::Hold, &[]).unwrap();
        let config = read(&dir.join("v"));
        assert_eq!(config["process"]["args"], json!(["/bin/sleep", "1000"]));
        let names = config["linux"]["seccomp"]["syscalls"][0]["names"].as_array().unwrap();
        assert!(names.len() > 300 && names.contains(&json!("execve")));
        assert_eq!(config["mounts"].as_array().unwrap().len(), 7);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_no_bundle_is_named() {
        let error = Bundle::load(Path::new("/nonexistent"), false).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/config.json"));
    }
}
