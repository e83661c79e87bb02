//! Namespaces: made, shared, joined.

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tests::{Bundle, Call, Place, eventually, subject};

subject! {
    both: loopback_is_up, first_process_dies_with_its_namespace, mount_table_is_its_own;
    container: each_kind_is_made, absent_kinds_are_the_callers, network_can_be_joined, ipc_can_be_joined,
        uts_can_be_joined, pid_can_be_joined, user_can_be_joined, cgroup_can_be_joined, mount_can_be_joined,
        wrong_kind_of_path_is_refused, missing_path_is_named, same_kind_twice_is_refused, unknown_kind_is_refused,
        user_namespace_maps_ids, user_namespace_owns_the_others, mappings_without_user_namespace_are_refused,
        hostname_without_uts_is_refused, sysctl_of_the_host_is_refused, sysctl_without_its_namespace_is_refused,
        time_offsets_are_set, time_offsets_without_namespace_are_refused, network_devices_move_in,
        missing_network_device_is_named, device_returns_when_all_is_over, cgroup_view_begins_at_the_top,
        without_a_mount_namespace_mounts_lie_on_the_rootfs, several_ranges_are_mapped;
}

const KINDS: &[(&str, &str)] = &[
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
    ("user", "user"),
];

fn link(pid: impl std::fmt::Display, name: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace").display().to_string()
}

fn sleeper(place: &Place) -> Bundle {
    place.bundle().args(&["sleep", "1000"])
}

fn loopback_is_up(place: &Place) {
    place.run(&place.bundle().sh("ip addr show lo")).ok().says("UP").says("127.0.0.1/8");
}

fn first_process_dies_with_its_namespace(place: &Place) {
    let container = place.start(&place.bundle().sh("(setsid sleep 1000 &) ; sleep 1000 & wait"));
    container.kill("KILL");
    container.becomes("stopped");
    eventually("all are gone", || tests::leftovers::processes().is_empty().then_some(()));
}

fn mount_table_is_its_own(place: &Place) {
    let bundle = place
        .bundle()
        .more_capabilities(&["CAP_SYS_ADMIN"])
        .sh("mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt");
    place.run(&bundle).ok().prints("x");
    assert!(!bundle.rootfs().join("mnt/x").exists());
}

fn each_kind_is_made(place: &Place) {
    let mut bundle = sleeper(place).user_namespace();
    for (kind, _) in KINDS.iter().filter(|(kind, _)| *kind != "user") {
        bundle = bundle.namespace(kind, None);
    }
    let container = place.start(&bundle);
    for (kind, name) in KINDS {
        assert_ne!(link(container.pid(), name), link("self", name), "{kind}");
    }
}

fn absent_kinds_are_the_callers(place: &Place) {
    let bundle = sleeper(place)
        .without_namespace("network")
        .without_namespace("ipc")
        .without_namespace("uts")
        .remove("/hostname")
        .remove("/linux/sysctl");
    let container = place.start(&bundle);
    for name in ["net", "ipc", "uts", "cgroup", "user"] {
        assert_eq!(link(container.pid(), name), link("self", name), "{name}");
    }
}

/// A process in new namespaces, kept until the behaviour ends.
fn keeper(place: &Place, option: &str) -> (tests::Running, i32) {
    let mut running = Call::new(&place.dir, "unshare")
        .args([option, "--fork", "sh", "-c", "echo ready; exec sleep 1000"])
        .spawn();
    running.says("ready");
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let pid = eventually("unshare has a child", || {
        fs::read_to_string(&children).ok()?.trim().parse().ok()
    });
    (running, pid)
}

fn joins(place: &Place, kind: &str, name: &str, option: &str) {
    let (keeper, pid) = keeper(place, option);
    let path = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
    let mut bundle = sleeper(place).namespace(kind, Some(&path));
    if kind == "uts" {
        bundle = bundle.remove("/hostname");
    }
    let container = place.start(&bundle);
    assert_eq!(link(container.pid(), name), link(pid, name));
    assert_ne!(link(container.pid(), name), link("self", name));
    container.sh("true").ok();
    container.delete_force();
    drop(keeper);
    // The child of a killed unshare is an orphan.
    // SAFETY: kill takes two integers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn network_can_be_joined(place: &Place) {
    joins(place, "network", "net", "--net");
}

fn ipc_can_be_joined(place: &Place) {
    joins(place, "ipc", "ipc", "--ipc");
}

fn uts_can_be_joined(place: &Place) {
    joins(place, "uts", "uts", "--uts");
}

fn cgroup_can_be_joined(place: &Place) {
    joins(place, "cgroup", "cgroup", "--cgroup");
}

fn pid_can_be_joined(place: &Place) {
    let (keeper, pid) = keeper(place, "--pid");
    let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
    let container = place.start(
        &place
            .bundle()
            .namespace("pid", Some(&path))
            .sh("tr '\\0' ' ' </proc/1/cmdline; sleep 2000"),
    );
    container.says("sleep 1000");
    assert_eq!(link(container.pid(), "pid"), link(pid, "pid"));
    container.delete_force();
    // SAFETY: kill takes two integers; it is still there, nobody else's.
    let found = unsafe { libc::kill(pid, 0) };
    assert_eq!(found, 0, "the namespace's first process was killed with the container");
    drop(keeper);
    // SAFETY: kill takes two integers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn user_can_be_joined(place: &Place) {
    place.only_hull();
    let second = format!("{}-2", place.id);
    let one = place.start(&sleeper(place).user_namespace());
    let path = PathBuf::from(format!("/proc/{}/ns/user", one.pid()));
    let bundle = sleeper(place)
        .user_namespace()
        .remove("/linux/uidMappings")
        .remove("/linux/gidMappings")
        .namespace("user", Some(&path))
        // Written while the process is still the host's root: in there it may not.
        .set("/process/oomScoreAdj", json!(321))
        .set("/linux/cgroupsPath", json!(format!("/{second}")));
    let two = place.create_as(&bundle, &second);
    two.start();
    assert_eq!(link(one.pid(), "user"), link(two.pid(), "user"));
    two.sh("id -u; cat /proc/1/oom_score_adj").ok().prints("0\n321");
}

fn mount_can_be_joined(place: &Place) {
    place.only_hull();
    let (keeper, pid) = keeper(place, "--mount");
    let path = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
    let output = place.run(&place.bundle().namespace("mount", Some(&path)).sh("echo joined"));
    if output.code() != 0 {
        output.complains(&["mount"]);
    }
    drop(keeper);
    // SAFETY: kill takes two integers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn wrong_kind_of_path_is_refused(place: &Place) {
    place.run(&place.bundle().namespace("network", Some(Path::new("/proc/self/ns/ipc")))).fails();
    let file = place.new_file("no-namespace", "");
    place.run(&place.bundle().namespace("ipc", Some(&file))).fails();
}

fn missing_path_is_named(place: &Place) {
    place
        .run(&place.bundle().namespace("network", Some(Path::new("/run/netns/nowhere"))))
        .complains(&["nowhere"]);
}

fn same_kind_twice_is_refused(place: &Place) {
    place
        .run(&place.bundle().push("/linux/namespaces", json!({"type": "ipc"})))
        .complains(&["ipc", "duplicate"]);
}

fn unknown_kind_is_refused(place: &Place) {
    place
        .run(&place.bundle().push("/linux/namespaces", json!({"type": "dreams"})))
        .complains(&["dreams"]);
}

fn user_namespace_maps_ids(place: &Place) {
    let bundle = place
        .bundle()
        .user_namespace()
        .sh("id -u; touch /tmp/f; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '");
    place.run(&bundle).ok().prints("0\n 0 100000 65536\n 0 100000 65536");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(bundle.rootfs().join("tmp/f")).expect("the file").uid(), 100_000);
}

fn several_ranges_are_mapped(place: &Place) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 1000, "hostID": 200_000, "size": 5}]);
    let bundle = place
        .bundle()
        .user_namespace()
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .sh("cat /proc/self/uid_map | tr -s ' '");
    place.run(&bundle).ok().prints("0 100000 10\n 1000 200000 5");
}

fn user_namespace_owns_the_others(place: &Place) {
    // To set the host name it must have power over the UTS namespace.
    let bundle = place
        .bundle()
        .user_namespace()
        .more_capabilities(&["CAP_SYS_ADMIN"])
        .sh("hostname changed && hostname");
    place.run(&bundle).ok().prints("changed");
}

fn mappings_without_user_namespace_are_refused(place: &Place) {
    place.only_hull();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let bundle =
        place.bundle().set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    place.run(&bundle).complains(&["user namespace", "uidMappings", "user"]);
}

fn hostname_without_uts_is_refused(place: &Place) {
    let before = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    place.run(&place.bundle().without_namespace("uts")).complains(&["hostname", "uts"]);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").expect("a name"), before);
}

fn sysctl_of_the_host_is_refused(place: &Place) {
    let before = fs::read_to_string("/proc/sys/vm/swappiness").expect("a number");
    place
        .run(&place.bundle().set("/linux/sysctl", json!({"vm.swappiness": "1"})))
        .complains(&["vm.swappiness"]);
    place
        .run(&place.bundle().set("/linux/sysctl", json!({"net.ipv4/../../vm/swappiness": "1"})))
        .fails();
    place
        .run(&place.bundle().set("/linux/sysctl", json!({"kernel.no_such": "1"})))
        .complains(&["kernel.no_such"]);
    assert_eq!(fs::read_to_string("/proc/sys/vm/swappiness").expect("a number"), before);
}

fn sysctl_without_its_namespace_is_refused(place: &Place) {
    for (kind, key) in [("network", "net.ipv4.ip_forward"), ("ipc", "kernel.shm_rmid_forced")] {
        let bundle =
            place.bundle().without_namespace(kind).set("/linux/sysctl", json!({ key: "1" }));
        place.run(&bundle).complains(&[key]);
    }
}

fn time_offsets_are_set(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .namespace("time", None)
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 864_000_000, "nanosecs": 0}, "monotonic": {"secs": 1000, "nanosecs": 5}}))
        .sh("cut -d. -f1 /proc/uptime; tr -s ' ' </proc/self/timens_offsets");
    let output = place.run(&bundle);
    let uptime: u64 = output.ok().lines()[0].parse().expect("seconds");
    assert!(uptime > 864_000_000, "{output}");
    output.says("monotonic 1000 5");
}

fn time_offsets_without_namespace_are_refused(place: &Place) {
    place.only_hull();
    place
        .run(&place.bundle().set("/linux/timeOffsets", json!({"boottime": {"secs": 1}})))
        .complains(&["timeOffsets", "time namespace"]);
}

fn veth(place: &Place) -> (String, String) {
    let short = place.id.replace("hb-", "");
    let (one, two) = (format!("a{short}"), format!("b{short}"));
    let made = Call::new(&place.dir, "ip")
        .args(["link", "add", &one, "type", "veth", "peer", "name", &two])
        .run();
    if made.code() != 0 {
        place.cannot("no veth device");
    }
    (one, two)
}

fn network_devices_move_in(place: &Place) {
    place.only_hull();
    let (one, two) = veth(place);
    Call::new(&place.dir, "ip").args(["addr", "add", "10.77.0.2/24", "dev", &one]).ok();
    let bundle = place
        .bundle()
        .set("/linux/netDevices", json!({ &one: {"name": "inside0"} }))
        .sh("ip addr show inside0");
    let output = place.run(&bundle);
    let _ = Call::new(&place.dir, "ip").args(["link", "delete", &two]).run();
    output.ok().says("inside0").says("10.77.0.2/24").says("UP");
}

fn missing_network_device_is_named(place: &Place) {
    place.only_hull();
    place
        .run(&place.bundle().set("/linux/netDevices", json!({"nowhere0": {}})))
        .complains(&["nowhere0"]);
}

fn device_returns_when_all_is_over(place: &Place) {
    place.only_hull();
    let (one, two) = veth(place);
    // Its name inside is taken: the container is not made, the device stays.
    let bundle = place.bundle().set("/linux/netDevices", json!({ &one: {"name": "lo"} }));
    let output = place.run(&bundle);
    let there = Call::new(&place.dir, "ip").args(["link", "show", &one]).run();
    let _ = Call::new(&place.dir, "ip").args(["link", "delete", &two]).run();
    output.fails();
    there.ok();
}

fn cgroup_view_begins_at_the_top(place: &Place) {
    let output =
        place.run(&place.bundle().namespace("cgroup", None).args(&["cat", "/proc/self/cgroup"]));
    output.ok().does_not_say(&place.id);
    assert!(output.lines().iter().any(|line| line.ends_with(":/")), "{output}");
}

fn without_a_mount_namespace_mounts_lie_on_the_rootfs(place: &Place) {
    place.only_hull();
    let before = tests::leftovers::mounts();
    let bundle = sleeper(place)
        .without_namespace("mount")
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set("/root/readonly", json!(true));
    let container = place.start(&bundle);
    assert_eq!(link(container.pid(), "mnt"), link("self", "mnt"));
    container.sh("test -e /proc/self/status && ! touch /x").ok();
    assert!(bundle.rootfs().join("proc/meminfo").exists());
    container.delete_force();
    assert_eq!(tests::leftovers::mounts(), before);
    assert!(!bundle.rootfs().join("proc/meminfo").exists());

    let bundle = bundle.set("/linux/maskedPaths", json!(["/proc/kcore"]));
    place.run(&bundle).complains(&["linux.maskedPaths"]);
    assert_eq!(tests::leftovers::mounts(), before);
}
