//! Cgroups made for real; needs root and a writable hierarchy, and is passed over without.

use super::*;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

fn can() -> bool {
    // SAFETY: takes nothing, always succeeds.
    unsafe { libc::geteuid() == 0 }
}

fn make(name: &str, resources: serde_json::Value) -> Result<Cgroup> {
    let path = PathBuf::from(format!("/cgroups-test-{}-{name}/leaf", std::process::id()));
    let resources: LinuxResources = serde_json::from_value(resources).unwrap();
    let request = Request {
        path: Some(&path),
        id: name,
        systemd: false,
        rootless: false,
        resources: Some(&resources),
        annotations: None,
        owner: None,
    };
    plan(&request)?.create()
}

fn run_in(cgroup: &Cgroup, program: &str, args: &[&str]) -> Child {
    let mut entry = cgroup.entry().unwrap();
    entry.without_into().unwrap();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    // SAFETY: `join` only writes to descriptors.
    unsafe { command.pre_exec(move || entry.join()) };
    command.spawn().unwrap()
}

fn value(record: &Record, controller: &str, file: &str) -> String {
    let directory = record.paths.get(controller).or_else(|| record.paths.get("")).unwrap();
    std::fs::read_to_string(directory.join(file)).unwrap().trim().to_owned()
}

fn is_v1() -> bool {
    layout::Layout::read().unwrap().v1_of("memory").is_some()
}

#[test]
fn limits_are_written_and_everything_goes_away() {
    if !can() {
        return;
    }
    let resources = serde_json::json!({
        "memory": {"limit": 64 << 20, "swap": 128 << 20},
        "cpu": {"shares": 512, "quota": 20000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 17},
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}],
    });
    let cgroup = make("limits", resources).unwrap();
    let record = cgroup.record();
    if is_v1() {
        assert_eq!(value(&record, "memory", "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(
            value(&record, "memory", "memory.memsw.limit_in_bytes"),
            (128 << 20).to_string()
        );
        assert_eq!(value(&record, "cpu", "cpu.shares"), "512");
        assert!(value(&record, "devices", "devices.list").contains("c 10:229 rwm"));
    } else {
        assert_eq!(value(&record, "", "memory.max"), (64 << 20).to_string());
        assert_eq!(value(&record, "", "cpu.max"), "20000 100000");
    }
    assert_eq!(value(&record, "pids", "pids.max"), "17");
    assert_eq!(value(&record, "cpuset", "cpuset.cpus"), "0");
    let mut child = run_in(&cgroup, "sleep", &["100"]);
    assert_eq!(record.processes().unwrap(), [child.id() as i32]);
    let stats = record.stats().unwrap();
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 17));
    assert_eq!(stats.memory.usage.limit, 64 << 20);
    let json = serde_json::to_value(&stats).unwrap();
    assert!(json["cpu"]["usage"].get("kernel").is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    drop(cgroup);
    assert!(!record.exists());
    assert!(!record.main_parent().exists());
}

#[test]
fn a_kept_cgroup_freezes_changes_kills_and_is_removed_with_what_is_nested() {
    if !can() {
        return;
    }
    let cgroup =
        make("life", serde_json::json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}})).unwrap();
    let mut child = run_in(&cgroup, "sh", &["-c", "sleep 100 & sleep 100"]);
    let record = cgroup.keep();
    record.freeze().unwrap();
    assert!(record.frozen().unwrap());
    record.thaw().unwrap();
    assert!(!record.frozen().unwrap());
    for (limit, swap) in [(128i64 << 20, 256i64 << 20), (32 << 20, 32 << 20), (64 << 20, 64 << 20)]
    {
        let change = serde_json::json!({"memory": {"limit": limit, "swap": swap}});
        record.apply(&serde_json::from_value(change).unwrap()).unwrap();
        assert_eq!(record.stats().unwrap().memory.usage.limit, limit as u64);
    }
    for directory in record.paths.values().collect::<std::collections::BTreeSet<_>>() {
        std::fs::create_dir_all(directory.join("a/b")).unwrap();
    }
    record.freeze().unwrap();
    record.kill_all().unwrap();
    child.wait().unwrap();
    assert!(record.processes().unwrap().is_empty());
    record.remove().unwrap();
    assert!(!record.exists());
    assert!(!record.main_parent().exists());
}

#[test]
fn devices_change_without_a_gap() {
    if !can() {
        return;
    }
    let cgroup = make("devices", serde_json::json!({})).unwrap();
    let mut child = run_in(&cgroup, "sh", &["-c", "while : </dev/zero; do :; done"]);
    let record = cgroup.record();
    let change = serde_json::json!({"devices": [{"allow": true, "type": "b", "major": 7, "minor": 7, "access": "r"}]});
    for _ in 0..3 {
        record.apply(&serde_json::from_value(change.clone()).unwrap()).unwrap();
    }
    if is_v1() {
        assert!(value(&record, "devices", "devices.list").contains("b 7:7 r"));
    }
    assert_eq!(child.try_wait().unwrap(), None);
    record.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_missing_controller_is_named_and_nothing_is_left() {
    if !can() {
        return;
    }
    let error = make("missing", serde_json::json!({"network": {"classID": 5}}));
    let layout = layout::Layout::read().unwrap();
    if layout.v1_of("net_cls").is_none() {
        let text = error.err().unwrap().to_string();
        assert!(
            text.contains("linux.resources.network.classID") && text.contains("net_cls"),
            "{text}"
        );
    }
    let request = Request {
        path: Some(Path::new("/cgroups-test-none")),
        id: "x",
        systemd: false,
        rootless: false,
        resources: None,
        annotations: None,
        owner: None,
    };
    let made = plan(&request).unwrap().paths;
    assert!(made.values().all(|path| !path.exists()));
}

#[test]
fn a_child_can_remove_what_its_dead_creator_made() {
    if !can() {
        return;
    }
    let cgroup = make("orphan", serde_json::json!({})).unwrap();
    let record = cgroup.record();
    let remover = cgroup.remover().unwrap();
    let mut entry = cgroup.entry().unwrap();
    entry.without_into().unwrap();
    let mut command = Command::new("true");
    // SAFETY: both only make system calls.
    unsafe {
        command.pre_exec(move || {
            entry.join()?;
            remover.remove();
            Ok(())
        })
    };
    assert!(command.status().unwrap().success());
    assert!(!record.exists());
}

#[test]
fn out_of_memory_kills_are_noticed() {
    if !can() {
        return;
    }
    let cgroup =
        make("oom", serde_json::json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}})).unwrap();
    let mut events = cgroup.record().oom_events().unwrap();
    assert_eq!(events.take().unwrap(), Some(0));
    let mut child = run_in(
        &cgroup,
        "sh",
        &["-c", "x=$(head -c 50000000 /dev/zero | tr '\\0' x); echo $x | wc -c"],
    );
    child.wait().unwrap();
    let mut kills = 0;
    for _ in 0..50 {
        kills += events.take().unwrap().unwrap_or(0);
        if kills > 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(kills > 0);
}

#[test]
fn systemd_makes_changes_and_stops_a_scope() {
    if !can() || !Path::new("/run/systemd/private").exists() {
        return;
    }
    let name = format!("test{}", std::process::id());
    let path = PathBuf::from(format!("hull-test.slice:cgroups:{name}"));
    let resources = serde_json::json!({
        "memory": {"limit": 64 << 20},
        "cpu": {"quota": 50000, "period": 100000, "shares": 512},
        "pids": {"limit": 9},
    });
    let resources: LinuxResources = serde_json::from_value(resources).unwrap();
    let annotations =
        HashMap::from([("org.systemd.property.TimeoutStopSec".to_owned(), "uint64 7".to_owned())]);
    let request = Request {
        path: Some(&path),
        id: &name,
        systemd: true,
        rootless: false,
        resources: Some(&resources),
        annotations: Some(&annotations),
        owner: None,
    };
    let show = |property: &str| {
        let unit = format!("cgroups-{name}.scope");
        let output =
            Command::new("systemctl").args(["show", "-P", property, &unit]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let mut cgroup = plan(&request).unwrap().create().unwrap();
    let mut child = run_in(&cgroup, "sleep", &["100"]);
    cgroup.joined().unwrap();
    let record = cgroup.keep();
    assert_eq!(record.processes().unwrap(), [child.id() as i32]);
    assert_eq!(show("ActiveState"), "active");
    assert_eq!(show("MemoryMax"), (64 << 20).to_string());
    assert_eq!(show("TimeoutStopUSec"), "7s");
    assert_eq!(value(&record, "pids", "pids.max"), "9");
    let change = serde_json::json!({"memory": {"limit": 32 << 20}, "pids": {"limit": 5}});
    record.apply(&serde_json::from_value(change).unwrap()).unwrap();
    assert_eq!(show("MemoryMax"), (32 << 20).to_string());
    // Nothing of it is undone when systemd writes everything again.
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    assert_eq!(record.stats().unwrap().memory.usage.limit, 32 << 20);
    assert_eq!(record.stats().unwrap().pids.limit, 5);
    record.kill_all().unwrap();
    child.wait().unwrap();
    record.remove().unwrap();
    assert!(!record.exists());
    assert_ne!(show("ActiveState"), "active");
}

#[test]
fn the_v1_freezer_and_killing_one_by_one_do_without_v2() {
    let layout = layout::Layout::read().unwrap();
    if !can() || layout.v1_of("freezer").is_none() {
        return;
    }
    let cgroup = make("v1only", serde_json::json!({})).unwrap();
    let mut child = run_in(&cgroup, "sh", &["-c", "sleep 100 & sleep 100"]);
    let mut record = cgroup.record();
    record.paths.remove("");
    record.freeze().unwrap();
    assert!(record.frozen().unwrap());
    assert_eq!(value(&record, "freezer", "freezer.state"), "FROZEN");
    let again = make("v1only", serde_json::json!({}));
    assert!(matches!(again, Err(Error::NotEmpty { .. })), "{again:?}");
    record.thaw().unwrap();
    assert!(!record.frozen().unwrap());
    record.freeze().unwrap();
    record.kill_all().unwrap();
    child.wait().unwrap();
    assert!(record.processes().unwrap().is_empty());
}

#[test]
fn a_frozen_cgroup_is_refused() {
    let layout = layout::Layout::read().unwrap();
    if !can() || layout.v1_of("freezer").is_none() {
        return;
    }
    let cgroup = make("cold", serde_json::json!({})).unwrap();
    let mut record = cgroup.record();
    record.paths.remove("");
    record.freeze().unwrap();
    let again = make("cold", serde_json::json!({}));
    assert!(matches!(again, Err(Error::Frozen { .. })), "{again:?}");
    record.thaw().unwrap();
}

#[test]
fn devices_that_are_not_listed_cannot_be_opened() {
    // Readable by root everywhere, and in no default list.
    if !can() || std::fs::File::open("/dev/kmsg").is_err() {
        return;
    }
    let cgroup = make("kmsg", serde_json::json!({})).unwrap();
    let opens = |device: &str| {
        run_in(&cgroup, "sh", &["-c", &format!("exec 2>&-; : < {device}")])
            .wait()
            .unwrap()
            .success()
    };
    assert!(opens("/dev/zero"));
    assert!(!opens("/dev/kmsg"));
    let change = serde_json::json!({"devices": [{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]});
    cgroup.record().apply(&serde_json::from_value(change).unwrap()).unwrap();
    assert!(opens("/dev/kmsg"));
    let change = serde_json::json!({"devices": [{"allow": true}]});
    cgroup.record().apply(&serde_json::from_value(change).unwrap()).unwrap();
    assert!(opens("/dev/kmsg"));
}

#[test]
fn a_cgroup_given_away_belongs_to_the_containers_root() {
    use std::os::unix::fs::MetadataExt;
    let layout = layout::Layout::read().unwrap();
    if !can() || layout.v2.is_none() {
        return;
    }
    let path = PathBuf::from(format!("/cgroups-test-{}-owner/leaf", std::process::id()));
    let request = Request {
        path: Some(&path),
        id: "owner",
        systemd: false,
        rootless: false,
        resources: None,
        annotations: None,
        owner: Some((1234, 4321)),
    };
    let cgroup = plan(&request).unwrap().create().unwrap();
    let directory = cgroup.record().paths[""].clone();
    let owner = |path: &Path| std::fs::metadata(path).map(|data| (data.uid(), data.gid())).unwrap();
    assert_eq!(owner(&directory), (1234, 4321));
    assert_eq!(owner(&directory.join("cgroup.procs")), (1234, 4321));
    assert_eq!(owner(&directory.join("cgroup.freeze")), (0, 0));
}

#[test]
fn a_user_without_delegation_goes_without_and_is_not_stopped() {
    if !can() {
        return;
    }
    std::thread::spawn(|| {
        // By the bare system call only this thread changes; the kernel takes its capabilities away.
        // SAFETY: takes integers only.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        let resources = serde_json::json!({
            "memory": {"limit": 64 << 20}, "pids": {"limit": 5},
            "devices": [{"allow": false, "access": "rwm"}],
        });
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let path = PathBuf::from(format!("/cgroups-test-{}-user", std::process::id()));
        let mut request = Request {
            path: Some(&path),
            id: "user",
            systemd: false,
            rootless: true,
            resources: Some(&resources),
            annotations: None,
            owner: None,
        };
        let cgroup = plan(&request).unwrap().create().unwrap();
        assert!(cgroup.record().paths.is_empty());
        assert!(cgroup.entry().unwrap().is_empty());
        assert!(cgroup.record().processes().unwrap().is_empty());
        cgroup.keep().clear().unwrap();
        request.rootless = false;
        assert!(plan(&request).unwrap().create().is_err());
    })
    .join()
    .unwrap();
}

#[test]
fn a_parent_with_processes_gives_no_controllers_on_v2() {
    let layout = layout::Layout::read().unwrap();
    if !can() || !layout.v1.is_empty() {
        return;
    }
    let parent = make("busy", serde_json::json!({})).unwrap();
    let mut child = run_in(&parent, "sleep", &["100"]);
    let below = parent.record().paths[""].strip_prefix("/sys/fs/cgroup").unwrap().join("below");
    let path = Path::new("/").join(below);
    let mut request = Request {
        path: Some(&path),
        id: "below",
        systemd: false,
        rootless: false,
        resources: None,
        annotations: None,
        owner: None,
    };
    drop(plan(&request).unwrap().create().unwrap());
    let limit: LinuxResources =
        serde_json::from_value(serde_json::json!({"memory": {"limit": 64 << 20}})).unwrap();
    request.resources = Some(&limit);
    let error = plan(&request).unwrap().create().unwrap_err().to_string();
    assert!(
        error.contains("linux.resources.memory.limit") && error.contains("memory controller"),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn more_processes_enter_below_by_path_and_controller() {
    if !can() {
        return;
    }
    let cgroup = make("below", serde_json::json!({})).unwrap();
    let record = cgroup.record();
    let (name, path) = record.paths.iter().next_back().unwrap();
    std::fs::create_dir(path.join("sub")).unwrap();
    let enter = |argument: &str| {
        record.entry(&[argument.to_owned()]).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(enter("/sub"), Ok(()));
    if !name.is_empty() {
        assert_eq!(enter(&format!("{name}:sub")), Ok(()));
    }
    for wrong in ["nothing", "../sub", "unknown:sub"] {
        assert!(enter(wrong).unwrap_err().contains("--cgroup"), "{wrong}");
    }
}
