use super::*;
use serde_json::{Value, json};

/// A small valid configuration.
fn base() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "user"}]}
    })
}

fn check(value: &Value) -> Result<(), Error> {
    validate(&crate::parse(value.to_string().as_bytes())?)
}

/// The base with the value at the JSON pointer replaced or added.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = base();
    let mut place = &mut config;
    for part in pointer.split('/') {
        place = &mut place[part];
    }
    *place = value;
    config
}

fn refused(pointer: &str, value: Value, message: &str) {
    let error = check(&with(pointer, value)).unwrap_err().to_string();
    assert_eq!(error, format!("config.json: {message}"));
}

#[test]
fn the_base_is_valid() {
    check(&base()).unwrap();
}

#[test]
fn versions_from_one_on_and_no_other_are_taken() {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0+x", "1.3.0", "1.99.0-rc.1"] {
        check(&with("ociVersion", json!(version))).unwrap();
    }
    for version in ["2.0.0", "0.9.0", "1", "1.0", "1.x.0", "1.0.0.0", "abc", "10.0.0"] {
        let message = format!("ociVersion: version {version:?} is not supported (1.x is)");
        refused("ociVersion", json!(version), &message);
    }
    refused("ociVersion", json!(""), "ociVersion: is required");
}

#[test]
fn what_is_required_is_missed_by_name() {
    for (pointer, message) in [
        ("root", "root: is required"),
        ("process", "process: is required"),
        ("process/args", "process.args: is required"),
    ] {
        refused(pointer, Value::Null, message);
    }
    refused("process/args", json!([]), "process.args: must not be empty");
    refused("root/path", json!(""), "root.path: must not be empty");
    refused("process/cwd", json!(""), "process.cwd: must not be empty");
}

#[test]
fn relative_paths_are_refused_where_they_mean_nothing() {
    refused("process/cwd", json!("tmp"), r#"process.cwd: "tmp" must be an absolute path"#);
    let hook = json!([{"path": "/bin/true"}, {"path": "bin/true"}]);
    refused(
        "hooks/poststart",
        hook,
        r#"hooks.poststart[1].path: "bin/true" must be an absolute path"#,
    );
    refused(
        "linux/maskedPaths",
        json!(["/proc/kcore", "proc"]),
        r#"linux.maskedPaths[1]: "proc" must be an absolute path"#,
    );
    check(&with("linux/readonlyPaths", json!(["proc/sys"]))).unwrap();
    refused(
        "linux/readonlyPaths",
        json!(["/proc/sys", ""]),
        "linux.readonlyPaths[1]: must not be empty",
    );
    refused(
        "linux/namespaces",
        json!([{"type": "pid", "path": "proc/1"}]),
        r#"linux.namespaces[0].path: "proc/1" must be an absolute path"#,
    );
    refused(
        "vm",
        json!({"kernel": {"path": "vmlinux"}}),
        r#"vm.kernel.path: "vmlinux" must be an absolute path"#,
    );
}

#[test]
fn the_same_namespace_twice_is_refused() {
    refused(
        "linux/namespaces",
        json!([{"type": "pid"}, {"type": "mount"}, {"type": "pid"}]),
        "linux.namespaces[2].type: duplicated pid namespace",
    );
}

#[test]
fn fields_need_their_namespace() {
    let mut config = with("hostname", json!("h"));
    check(&config).unwrap();
    config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    let error = check(&config).unwrap_err().to_string();
    assert_eq!(error, "config.json: hostname: needs a private UTS namespace");
    refused(
        "linux/timeOffsets",
        json!({"boottime": {"secs": 1}}),
        "linux.timeOffsets.boottime: needs a time namespace",
    );
    refused(
        "linux/netDevices",
        json!({"eth0": {}}),
        "linux.netDevices.eth0: needs a network namespace",
    );
    let mut config = base();
    config["linux"]["namespaces"] = json!([]);
    config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let error = check(&config).unwrap_err().to_string();
    assert_eq!(error, "config.json: linux.uidMappings: needs a user namespace");
}

#[test]
fn numbers_out_of_range_are_refused() {
    for (pointer, value, message) in [
        ("process/oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001 is not in -1000..=1000"),
        (
            "process/consoleSize",
            json!({"height": 70000, "width": 1}),
            "process.consoleSize.height: 70000 is not in 0..=65535",
        ),
        (
            "process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]),
            "process.rlimits[0].soft: 2 is not in 0..=1",
        ),
        (
            "linux/uidMappings",
            json!([{"containerID": 0, "hostID": 1, "size": 4294967295_u32}]),
            "linux.uidMappings[0].size: 4294967295 is not in 1..=4294967294",
        ),
        (
            "linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": 5000, "minor": 0}]),
            "linux.devices[0].major: 5000 is not in 0..=4095",
        ),
        (
            "linux/resources",
            json!({"cpu": {"idle": 2}}),
            "linux.resources.cpu.idle: 2 is not in 0..=1",
        ),
    ] {
        refused(pointer, value, message);
    }
    let error = check(&with("hooks/prestart", json!([{"path": "/x", "timeout": 0}])));
    assert!(error.unwrap_err().to_string().contains("hooks.prestart[0].timeout: 0 is not in"));
}

#[test]
fn rlimits_are_given_once() {
    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1});
    refused(
        "process/rlimits",
        json!([limit, limit]),
        "process.rlimits[1].type: duplicated RLIMIT_NOFILE",
    );
}

#[test]
fn words_are_checked() {
    for value in ["rprivate", "private", "rshared", "slave", "unbindable", "runbindable", ""] {
        check(&with("linux/rootfsPropagation", json!(value))).unwrap();
    }
    for value in ["rr", "rrprivate", "public"] {
        assert!(check(&with("linux/rootfsPropagation", json!(value))).is_err(), "{value}");
    }
    for (pointer, value) in [
        ("linux/intelRdt", json!({"closID": "../x"})),
        ("linux/resources", json!({"hugepageLimits": [{"pageSize": "2 MB", "limit": 1}]})),
        ("linux/resources", json!({"devices": [{"allow": true, "access": "rx"}]})),
        ("linux/resources", json!({"unified": {"../memory.max": "1"}})),
        ("linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"})),
        ("vm", json!({"image": {"path": "/i", "format": "iso"}})),
        ("windows", json!({"layerFolders": []})),
        ("process/commandLine", json!("dir")),
        ("mounts", json!([{"destination": ""}])),
        ("annotations", json!({"": "x"})),
    ] {
        assert!(check(&with(pointer, value.clone())).is_err(), "{pointer} {value}");
    }
}

#[test]
fn mounts_may_lack_what_they_do_not_need() {
    check(&with("mounts", json!([{"destination": "relative"}, {"destination": "/tmp"}]))).unwrap();
}

#[test]
fn a_mount_is_mapped_for_users_and_groups() {
    let mapping = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    refused(
        "mounts",
        json!([{"destination": "/x", "uidMappings": mapping}]),
        "mounts[0].uidMappings: needs gidMappings beside it",
    );
}

#[test]
fn mappings_are_below_linux() {
    refused(
        "uidMappings",
        json!([{"containerID": 0, "hostID": 0, "size": 1}]),
        "uidMappings: is not supported: those of a Linux container are below linux",
    );
}
