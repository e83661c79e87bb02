//! A bundle under construction: a root file system and a `config.json` that
//! starts as a plain, complete one and is bent by the behaviour.

use crate::place::{Place, Wall};
use crate::rootfs;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A bundle's directory and the configuration that will be written to it.
pub struct Bundle {
    /// The directory.
    pub dir: PathBuf,
    /// What `config.json` will say.
    pub config: Value,
}

/// The capabilities engines give by default.
pub const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

impl Bundle {
    pub(crate) fn new(place: &Place, dir: PathBuf) -> Bundle {
        let root = dir.join("rootfs");
        rootfs::make(&place.shared, &root).expect("a root file system for the bundle");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("an open bundle");
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": ["true"],
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
                },
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs", "readonly": false},
            "hostname": "hull-test",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                 "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                 "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                 "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{}", place.id),
                "namespaces": [
                    {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        if let (Wall::MicroVm, Some(kernel)) = (place.wall, &place.kernel) {
            config["vm"] = json!({"kernel": {"path": kernel}});
        }
        Bundle { dir, config }
    }

    /// The process to run.
    pub fn args<S: AsRef<str>>(mut self, args: &[S]) -> Bundle {
        self.config["process"]["args"] = args.iter().map(|a| json!(a.as_ref())).collect();
        self
    }

    /// A shell script to run.
    pub fn sh(self, script: &str) -> Bundle {
        self.args(&["sh", "-c", script])
    }

    /// Sets what a JSON pointer names, making objects on the way.
    pub fn set(mut self, pointer: &str, value: Value) -> Bundle {
        *at(&mut self.config, pointer) = value;
        self
    }

    /// Appends to the array a JSON pointer names, making it where missing.
    pub fn push(mut self, pointer: &str, value: Value) -> Bundle {
        let array = at(&mut self.config, pointer);
        if array.is_null() {
            *array = json!([]);
        }
        array.as_array_mut().expect("an array").push(value);
        self
    }

    /// Takes the member a JSON pointer names away.
    pub fn remove(mut self, pointer: &str) -> Bundle {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        if let Some(object) = self.config.pointer_mut(parent).and_then(Value::as_object_mut) {
            object.remove(name);
        }
        self
    }

    /// Adds `NAME=value` to the environment.
    pub fn env(self, assignment: &str) -> Bundle {
        self.push("/process/env", json!(assignment))
    }

    /// Adds a mount.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Bundle {
        self.push(
            "/mounts",
            json!({"destination": destination, "type": kind, "source": source, "options": options}),
        )
    }

    /// Adds a bind mount of a path of the host.
    pub fn bind(self, source: &Path, destination: &str, options: &[&str]) -> Bundle {
        let mut all = vec!["bind"];
        all.extend(options);
        let source = source.to_str().expect("a path in UTF-8").to_owned();
        self.mount(destination, "bind", &source, &all)
    }

    /// Adds a namespace, or replaces the one of its kind.
    pub fn namespace(self, kind: &str, path: Option<&Path>) -> Bundle {
        let this = self.without_namespace(kind);
        match path {
            None => this.push("/linux/namespaces", json!({"type": kind})),
            Some(path) => this.push("/linux/namespaces", json!({"type": kind, "path": path})),
        }
    }

    /// Takes a kind of namespace away: the process stays in the caller's.
    pub fn without_namespace(mut self, kind: &str) -> Bundle {
        if let Some(list) = self.config["linux"]["namespaces"].as_array_mut() {
            list.retain(|n| n["type"] != kind);
        }
        self
    }

    /// All capabilities named, in the three sets an engine fills.
    pub fn capabilities(self, names: &[&str]) -> Bundle {
        let mut bundle = self;
        for set in ["bounding", "effective", "permitted"] {
            bundle.config["process"]["capabilities"][set] = json!(names);
        }
        bundle
    }

    /// The default capabilities and some more.
    pub fn more_capabilities(self, names: &[&str]) -> Bundle {
        let mut all = CAPABILITIES.to_vec();
        all.extend(names);
        self.capabilities(&all)
    }

    /// A user namespace that maps the root of the container to 100000, and the
    /// root file system given to it.
    pub fn user_namespace(self) -> Bundle {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        let owned = std::process::Command::new("chown")
            .args(["-hR", "100000:100000"])
            .arg(self.rootfs().join("dev"))
            .args(
                ["home", "tmp", "etc", "mnt", "root", "run", "var"].map(|d| self.rootfs().join(d)),
            )
            .arg(self.rootfs())
            .status();
        // busybox itself is a link shared by all bundles: its inode's owner
        // does not matter and must not be changed under the others.
        assert!(owned.expect("chown").success());
        self.namespace("user", None)
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }

    /// The root file system's path on the host.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Writes a file into the root file system.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Bundle {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a parent")).expect("its directory");
        fs::write(&path, content).expect("a file of the root file system");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        self
    }

    /// Puts this very program, which is static, at `/bin/inside`, to do there
    /// what busybox does not ([`crate::inside`]).
    pub fn helper(self, mode: u32) -> Bundle {
        let path = self.rootfs().join("bin/inside");
        fs::copy("/proc/self/exe", &path).expect("the helper");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        self
    }

    /// Makes a directory in the root file system.
    pub fn dir(self, path: &str) -> Bundle {
        fs::create_dir_all(self.rootfs().join(path.trim_start_matches('/'))).expect("a directory");
        self
    }

    /// Makes a symbolic link in the root file system.
    pub fn symlink(self, target: impl AsRef<Path>, path: &str) -> Bundle {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path).expect("the directory gone");
        } else {
            let _ = fs::remove_file(&path);
        }
        std::os::unix::fs::symlink(target, path).expect("a link");
        self
    }

    /// Writes `config.json`.
    pub fn save(&self) {
        let text = serde_json::to_vec_pretty(&self.config).expect("JSON");
        fs::write(self.dir.join("config.json"), text).expect("config.json written");
    }
}

/// The value a pointer names, with objects made on the way.
fn at<'a>(config: &'a mut Value, pointer: &str) -> &'a mut Value {
    let mut value = config;
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        value = match value {
            Value::Array(array) => &mut array[part.parse::<usize>().expect("an index")],
            other => {
                if !other.is_object() {
                    *other = json!({});
                }
                other.as_object_mut().expect("an object").entry(part).or_insert(Value::Null)
            }
        };
    }
    value
}
