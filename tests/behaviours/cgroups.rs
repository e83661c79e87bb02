//! Control groups: placed, limited, counted, changed, gone.

use serde_json::json;
use std::fs;
use std::path::PathBuf;
use tests::{Bundle, Container, Place, cgroup, eventually, subject};

subject! {
    both: memory_limit_is_enforced, pids_limit_is_enforced, devices_not_allowed_are_refused, allowed_device_can_be_used,
        statistics_can_be_had, update_of_the_pids_limit_works, events_shows_statistics_of_a_running_one;
    container: it_has_a_group_of_its_own, group_is_gone_afterwards, path_may_be_relative, path_may_be_missing,
        memory_limit_is_written, swap_limit_is_written, memory_reservation_is_written, cpu_limits_are_written,
        cpuset_is_written, pids_limit_is_written, block_weight_is_written, update_changes_limits,
        update_reads_resources_from_a_file, update_reads_resources_from_stdin, update_has_all_flags,
        update_of_a_bad_value_is_refused, failed_create_leaves_no_group, pause_freezes_the_group,
        events_tell_of_out_of_memory, systemd_driver_without_systemd_is_refused, groups_made_inside_are_removed,
        unknown_path_is_not_climbed, memory_below_use_is_refused_when_asked, huge_page_limit_is_honoured_or_refused,
        unified_is_honoured_or_refused, network_classes_are_honoured_or_refused, intel_rdt_is_refused_without_resctrl,
        rdma_is_honoured_or_refused, real_time_budget_is_honoured_or_refused, cpu_burst_and_idle_are_honoured_or_refused,
        foreign_group_is_left_alone, group_with_processes_is_refused, no_tasks_at_all_is_one;
}

fn sleeper(place: &Place) -> Bundle {
    place.bundle().args(&["sleep", "1000"])
}

/// A file of the container's group, by its name on version 1 and on 2.
fn file(container: &Container, controller: &str, v1: &str, v2: &str) -> Option<PathBuf> {
    cgroup::controller(controller)?;
    let dir = cgroup::of_process(container.pid(), controller)?;
    Some(dir.join(if cgroup::is_v2() { v2 } else { v1 }))
}

fn read(place: &Place, container: &Container, controller: &str, v1: &str, v2: &str) -> String {
    let Some(path) = file(container, controller, v1, v2) else {
        place.cannot(&format!("no controller {controller} on this host"))
    };
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn memory_limit_is_enforced(place: &Place) {
    let bundle = place
        .bundle()
        .helper(0o755)
        .set("/linux/resources/memory", json!({"limit": 64 << 20, "swap": 64 << 20}))
        .args(&["/bin/inside", "inside", "allocate", "200"]);
    place.run(&bundle).exits(137);
}

fn pids_limit_is_enforced(place: &Place) {
    let script = "i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i+1)); done; echo all";
    let bundle = place.bundle().set("/linux/resources/pids", json!({"limit": 10})).sh(script);
    let output = place.run(&bundle);
    output.fails().does_not_say("all");
    assert!(output.stderr.contains("fork"), "{output}");
}

fn devices_not_allowed_are_refused(place: &Place) {
    let bundle = place
        .bundle()
        .sh("mknod /tmp/mem c 1 1 && echo made; head -c 1 /tmp/mem && echo read; echo end");
    let output = place.run(&bundle);
    output.ok().does_not_say("read").says("end");
}

fn allowed_device_can_be_used(place: &Place) {
    let bundle = place
        .bundle()
        .set("/linux/devices", json!([{"path": "/dev/kmsg-like", "type": "c", "major": 1, "minor": 5, "fileMode": 438}]))
        .push("/linux/resources/devices", json!({"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}))
        .sh("head -c 2 /dev/kmsg-like | wc -c; (echo x >/dev/kmsg-like) 2>/dev/null || echo no writing");
    let output = place.run(&bundle);
    // /dev/zero by another name: default devices stay allowed as a whole.
    output.ok().says("2");
}

fn statistics_can_be_had(place: &Place) {
    let container = place.start(
        &place
            .bundle()
            .sh("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; echo ready; sleep 1000"),
    );
    container.says("ready");
    let stats = place.call(&["events", "--stats", &place.id]).ok().json();
    assert_eq!(
        (stats["type"].as_str(), stats["id"].as_str()),
        (Some("stats"), Some(place.id.as_str()))
    );
    let data = &stats["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|n| n > 1_000_000), "{data}");
    assert!(data["memory"]["usage"]["usage"].as_u64().is_some_and(|n| n > 4096), "{data}");
    assert!(data["pids"]["current"].as_u64().is_some_and(|n| n >= 1), "{data}");
}

fn events_shows_statistics_of_a_running_one(place: &Place) {
    let container = place.start(&sleeper(place));
    let mut running = place.hull().args(["events", "--interval", "1s", &place.id]).spawn();
    running.says("\"stats\"");
    container.kill("KILL");
    container.becomes("stopped");
    container.delete();
    // runc goes on or ends by itself; both are left behind.
    drop(running);
}

fn update_of_the_pids_limit_works(place: &Place) {
    let container = place.start(
        &place
            .bundle()
            .set("/linux/resources/pids", json!({"limit": 100}))
            .args(&["sleep", "1000"]),
    );
    place.call(&["update", "--pids-limit", "5", &place.id]).ok();
    let output = container.sh("i=0; while [ $i -lt 20 ]; do sleep 3 & i=$((i+1)); done; echo all");
    output.fails().does_not_say("all");
}

fn it_has_a_group_of_its_own(place: &Place) {
    let container = place.start(&sleeper(place));
    for hierarchy in cgroup::hierarchies() {
        if hierarchy.ends_with("unified") {
            continue; // Nothing is asked of it here: hull may leave it alone.
        }
        let procs = fs::read_to_string(hierarchy.join(&place.id).join("cgroup.procs"));
        assert_eq!(
            procs.ok().as_deref().map(str::trim),
            Some(container.pid().to_string().as_str()),
            "{}",
            hierarchy.display()
        );
    }
}

fn group_is_gone_afterwards(place: &Place) {
    let container = place.start(&place.bundle());
    container.becomes("stopped");
    container.delete();
    assert_eq!(cgroup::named(&place.id), Vec::<PathBuf>::new());
}

fn path_may_be_relative(place: &Place) {
    let path = format!("{}/deep/er", place.id);
    let container = place.start(&sleeper(place).set("/linux/cgroupsPath", json!(path)));
    let dir = cgroup::of_process(container.pid(), "pids").expect("a group");
    assert!(dir.to_string_lossy().ends_with("/deep/er"), "{}", dir.display());
    container.delete_force();
    for dir in cgroup::named(&place.id) {
        // Parents are nobody's: runc leaves them.
        if !dir.ends_with("er") {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn path_may_be_missing(place: &Place) {
    let container = place.start(&sleeper(place).remove("/linux/cgroupsPath"));
    let dir = cgroup::of_process(container.pid(), "pids").expect("a group");
    assert!(dir.to_string_lossy().contains(&place.id), "{}", dir.display());
}

fn memory_limit_is_written(place: &Place) {
    let container =
        place.start(&sleeper(place).set("/linux/resources/memory", json!({"limit": 64 << 20})));
    assert_eq!(
        read(place, &container, "memory", "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
}

fn swap_limit_is_written(place: &Place) {
    let limits = json!({"limit": 64 << 20, "swap": 96 << 20});
    let container = place.start(&sleeper(place).set("/linux/resources/memory", limits));
    let wanted = if cgroup::is_v2() { 32 << 20 } else { 96 << 20 };
    assert_eq!(
        read(place, &container, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
        wanted.to_string()
    );
}

fn memory_reservation_is_written(place: &Place) {
    let limits = json!({"limit": 64 << 20, "reservation": 32 << 20});
    let container = place.start(&sleeper(place).set("/linux/resources/memory", limits));
    assert_eq!(
        read(place, &container, "memory", "memory.soft_limit_in_bytes", "memory.low"),
        (32 << 20).to_string()
    );
}

fn cpu_limits_are_written(place: &Place) {
    let container =
        place.start(&sleeper(place).set(
            "/linux/resources/cpu",
            json!({"shares": 512, "quota": 50_000, "period": 100_000}),
        ));
    if cgroup::is_v2() {
        assert_eq!(read(place, &container, "cpu", "", "cpu.max"), "50000 100000");
    } else {
        assert_eq!(read(place, &container, "cpu", "cpu.shares", ""), "512");
        assert_eq!(read(place, &container, "cpu", "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(read(place, &container, "cpu", "cpu.cfs_period_us", ""), "100000");
    }
}

fn cpuset_is_written(place: &Place) {
    let container =
        place.start(&sleeper(place).set("/linux/resources/cpu", json!({"cpus": "0", "mems": "0"})));
    assert_eq!(read(place, &container, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    container.sh("grep Cpus_allowed_list /proc/self/status").ok().says("\t0\n");
}

fn pids_limit_is_written(place: &Place) {
    let container = place.start(&sleeper(place).set("/linux/resources/pids", json!({"limit": 33})));
    assert_eq!(read(place, &container, "pids", "pids.max", "pids.max"), "33");
}

fn block_weight_is_written(place: &Place) {
    let Some(dir) = cgroup::controller("blkio").or_else(|| cgroup::controller("io")) else {
        place.cannot("no controller blkio")
    };
    let there = ["blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight"]
        .iter()
        .any(|f| dir.join(f).exists());
    let output = place.run(&place.bundle().set("/linux/resources/blockIO", json!({"weight": 500})));
    if there {
        output.ok();
    } else if output.code() != 0 {
        output.complains(&["weight", "blkio", "blockIO"]);
    }
}

fn update_changes_limits(place: &Place) {
    let container =
        place.start(&sleeper(place).set(
            "/linux/resources",
            json!({"memory": {"limit": 64 << 20}, "cpu": {"shares": 512}}),
        ));
    place.call(&["update", "--memory", "33554432", &place.id]).ok();
    assert_eq!(
        read(place, &container, "memory", "memory.limit_in_bytes", "memory.max"),
        "33554432"
    );
    place
        .call(&[
            "update",
            "--cpu-share",
            "256",
            "--cpu-period",
            "50000",
            "--cpu-quota",
            "20000",
            &place.id,
        ])
        .ok();
    if !cgroup::is_v2() {
        assert_eq!(read(place, &container, "cpu", "cpu.shares", ""), "256");
        assert_eq!(read(place, &container, "cpu", "cpu.cfs_quota_us", ""), "20000");
        assert_eq!(read(place, &container, "cpu", "cpu.cfs_period_us", ""), "50000");
    }
    assert_eq!(
        read(place, &container, "memory", "memory.limit_in_bytes", "memory.max"),
        "33554432",
        "what is not named stays"
    );
}

fn update_reads_resources_from_a_file(place: &Place) {
    let container = place.start(&sleeper(place));
    let file = place.new_file(
        "resources.json",
        json!({"pids": {"limit": 44}, "memory": {"limit": 48 << 20}}).to_string(),
    );
    place.call(&["update", "--resources", tests::place::str(&file), &place.id]).ok();
    assert_eq!(read(place, &container, "pids", "pids.max", "pids.max"), "44");
    assert_eq!(
        read(place, &container, "memory", "memory.limit_in_bytes", "memory.max"),
        (48 << 20).to_string()
    );
}

fn update_reads_resources_from_stdin(place: &Place) {
    let container = place.start(&sleeper(place));
    place
        .hull()
        .args(["update", "-r", "-", &place.id])
        .input(json!({"pids": {"limit": 45}}).to_string())
        .ok();
    assert_eq!(read(place, &container, "pids", "pids.max", "pids.max"), "45");
}

fn update_has_all_flags(place: &Place) {
    let container =
        place.start(&sleeper(place).set("/linux/resources/memory", json!({"limit": 64 << 20})));
    place
        .call(&[
            "update",
            "--cpuset-cpus",
            "0",
            "--cpuset-mems",
            "0",
            "--memory-reservation",
            "16777216",
            "--memory-swap",
            "83886080",
            "--pids-limit",
            "46",
            &place.id,
        ])
        .ok();
    assert_eq!(read(place, &container, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(
        read(place, &container, "memory", "memory.soft_limit_in_bytes", "memory.low"),
        "16777216"
    );
    assert_eq!(read(place, &container, "pids", "pids.max", "pids.max"), "46");
}

fn update_of_a_bad_value_is_refused(place: &Place) {
    let container = place.start(&sleeper(place).set("/linux/resources/pids", json!({"limit": 33})));
    place.call(&["update", "--pids-limit", "many", &place.id]).fails();
    place.call(&["update", "--cpuset-cpus", "4096", &place.id]).fails();
    place.hull().args(["update", "-r", "-", &place.id]).input("{").run().fails();
    assert_eq!(read(place, &container, "pids", "pids.max", "pids.max"), "33");
}

fn failed_create_leaves_no_group(place: &Place) {
    place.run(&place.bundle().set("/linux/resources/cpu", json!({"cpus": "4096"}))).fails();
    place.run(&place.bundle().args(&["no-such-program"])).fails();
    assert_eq!(cgroup::named(&place.id), Vec::<PathBuf>::new());
}

fn pause_freezes_the_group(place: &Place) {
    let container = place.start(&sleeper(place));
    place.call(&["pause", &place.id]).ok();
    let v1 =
        file(&container, "freezer", "freezer.state", "cgroup.freeze").filter(|path| path.exists());
    let frozen = match v1 {
        Some(path) => {
            fs::read_to_string(path).is_ok_and(|text| text.contains("FROZEN") || text.trim() == "1")
        }
        None => false,
    };
    let unified =
        PathBuf::from(cgroup::MOUNT).join("unified").join(&place.id).join("cgroup.freeze");
    let frozen = frozen || fs::read_to_string(unified).is_ok_and(|text| text.trim() == "1");
    assert!(frozen, "no hierarchy says that it is frozen");
    place.call(&["resume", &place.id]).ok();
    container.sh("true").ok();
}

fn events_tell_of_out_of_memory(place: &Place) {
    if cgroup::controller("memory").is_none() {
        place.cannot("no controller memory");
    }
    let bundle = sleeper(place)
        .helper(0o755)
        .set("/linux/resources/memory", json!({"limit": 64 << 20, "swap": 64 << 20}));
    let container = place.start(&bundle);
    let mut running = place.hull().args(["events", "--interval", "1s", &place.id]).spawn();
    running.says("\"stats\"");
    let output = container.exec(&["/bin/inside", "inside", "allocate", "200"]).run();
    assert_ne!(output.code(), 0, "{output}");
    running.says("\"oom\"");
}

fn systemd_driver_without_systemd_is_refused(place: &Place) {
    if std::path::Path::new("/run/systemd/system").exists() {
        place.cannot("systemd runs here");
    }
    let bundle =
        place.bundle().set("/linux/cgroupsPath", json!(format!("system.slice:hull:{}", place.id)));
    bundle.save();
    let output = place
        .hull()
        .args(["--systemd-cgroup", "run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run();
    output.complains(&["systemd"]);
}

fn groups_made_inside_are_removed(place: &Place) {
    let bundle = place
        .bundle()
        .namespace("cgroup", None)
        .more_capabilities(&["CAP_SYS_ADMIN"])
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
        .sh("d=$(dirname $(find /sys/fs/cgroup -path '*pids*' -name cgroup.procs | head -n 1)); \
             [ -n \"$d\" ] || d=/sys/fs/cgroup; mkdir -p $d/inner/more && sleep 1000 & echo $! >$d/inner/more/cgroup.procs; \
             echo ready; wait");
    let container = place.start(&bundle);
    container.says("ready");
    container.delete_force();
    assert_eq!(cgroup::named(&place.id), Vec::<PathBuf>::new());
}

fn unknown_path_is_not_climbed(place: &Place) {
    let path = format!("/{}/../../../{}-up", place.id, place.id);
    let container_output = place.run(&place.bundle().set("/linux/cgroupsPath", json!(path)));
    // Refused, or cleaned to something below the hierarchy; never outside of it.
    let _ = container_output;
    assert!(!PathBuf::from(format!("/sys/fs/{}-up", place.id)).exists());
}

fn memory_below_use_is_refused_when_asked(place: &Place) {
    place.only_hull();
    let bundle =
        sleeper(place).helper(0o755).set("/linux/resources/memory", json!({"limit": 128 << 20}));
    let container = place.start(&bundle);
    let resources = json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}).to_string();
    place
        .hull()
        .args(["update", "-r", "-", &place.id])
        .input(resources)
        .run()
        .complains(&["memory", "usage"]);
    assert_eq!(container.status(), "running");
}

/// A limit for which this host may have no controller: honoured or refused, by name.
fn honoured_or_refused(place: &Place, field: &str, value: serde_json::Value, words: &[&str]) {
    place.only_hull();
    let output = place.run(&place.bundle().set(&format!("/linux/{field}"), value));
    if output.code() != 0 {
        output.complains(words);
    }
}

fn huge_page_limit_is_honoured_or_refused(place: &Place) {
    honoured_or_refused(
        place,
        "resources/hugepageLimits",
        json!([{"pageSize": "2MB", "limit": 4 << 20}]),
        &["hugepage", "hugetlb"],
    );
    let odd = json!([{"pageSize": "3MB", "limit": 4 << 20}]);
    place
        .run(&place.bundle().set("/linux/resources/hugepageLimits", odd))
        .complains(&["3MB", "hugepage", "hugetlb"]);
}

fn unified_is_honoured_or_refused(place: &Place) {
    place.only_hull();
    let output = place
        .run(&place.bundle().set("/linux/resources/unified", json!({"memory.high": "67108864"})));
    if output.code() != 0 {
        output.complains(&["unified", "memory.high"]);
    }
    // The kernel takes one line at a time of some files, where any number is the same as the last.
    let lines = json!({"pids.max": "55\n66\n"});
    let output = place.run(&place.bundle().set("/linux/resources/unified", lines));
    if cgroup::is_v2() {
        output.ok();
    }
    place
        .run(&place.bundle().set("/linux/resources/unified", json!({"../evil": "1"})))
        .complains(&["unified", "evil"]);
}

fn network_classes_are_honoured_or_refused(place: &Place) {
    honoured_or_refused(
        place,
        "resources/network",
        json!({"classID": 1_048_577}),
        &["network", "net_cls"],
    );
}

fn intel_rdt_is_refused_without_resctrl(place: &Place) {
    place.only_hull();
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        place.cannot("resctrl is here");
    }
    place
        .run(
            &place
                .bundle()
                .set("/linux/intelRdt", json!({"closID": "hull", "l3CacheSchema": "L3:0=f"})),
        )
        .complains(&["intelRdt", "resctrl"]);
}

fn rdma_is_honoured_or_refused(place: &Place) {
    honoured_or_refused(place, "resources/rdma", json!({"mlx5_1": {"hcaHandles": 3}}), &["rdma"]);
}

fn real_time_budget_is_honoured_or_refused(place: &Place) {
    honoured_or_refused(
        place,
        "resources/cpu",
        json!({"realtimeRuntime": 1000, "realtimePeriod": 1_000_000}),
        &["realtime", "rt"],
    );
}

fn cpu_burst_and_idle_are_honoured_or_refused(place: &Place) {
    honoured_or_refused(
        place,
        "resources/cpu",
        json!({"quota": 50_000, "period": 100_000, "burst": 10_000}),
        &["burst"],
    );
    honoured_or_refused(place, "resources/cpu", json!({"idle": 1}), &["idle"]);
}

fn foreign_group_is_left_alone(place: &Place) {
    // A group with somebody in it is not removed together with the container.
    let Some(pids) = cgroup::controller("pids") else { place.cannot("no controller pids") };
    let other = pids.join(&place.id).join("other");
    let container =
        place.start(&sleeper(place).set("/linux/cgroupsPath", json!(format!("/{}/own", place.id))));
    fs::create_dir(&other).expect("a group of another");
    let running = tests::Call::new(&place.dir, "sleep").arg("1000").spawn();
    fs::write(other.join("cgroup.procs"), running.pid().to_string()).expect("another process");
    container.delete_force();
    let alive = fs::read_to_string(other.join("cgroup.procs")).expect("the group is there");
    assert_eq!(alive.trim(), running.pid().to_string());
    fs::write(pids.join("cgroup.procs"), running.pid().to_string()).expect("moved away");
    drop(running);
    eventually("groups can be removed", || {
        for dir in cgroup::named(&place.id) {
            let _ = fs::remove_dir(dir);
        }
        cgroup::named(&place.id).is_empty().then_some(())
    });
}

fn group_with_processes_is_refused(place: &Place) {
    let path = json!(format!("/{}", place.id));
    let first = place.start(&sleeper(place).set("/linux/cgroupsPath", path.clone()));
    let second = place.bundle().set("/linux/cgroupsPath", path);
    let output = place.creating(&second, &format!("{}-2", place.id)).run();
    output.complains(&["container's cgroup is not empty"]);
    assert_eq!(first.status(), "running");
}

fn no_tasks_at_all_is_one(place: &Place) {
    let bundle = sleeper(place).set("/linux/resources/pids", json!({"limit": 0}));
    let new = place.start(&bundle.set("/ociVersion", json!("1.3.0")));
    assert_eq!(read(place, &new, "pids", "pids.max", "pids.max"), "1");
    new.delete_force();
    let bundle = sleeper(place).set("/linux/resources/pids", json!({"limit": 0}));
    let old = place.start(&bundle.set("/ociVersion", json!("1.2.0")));
    assert_eq!(read(place, &old, "pids", "pids.max", "pids.max"), "max");
}
