//! The systemd driver: a container is a scope that systemd knows. Where systemd is PID 1, which the
//! lab can have (`scripts/lab run --init systemd`).

use crate::rootless;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tests::wait::PATIENCE;
use tests::{Bundle, Call, Container, Output, Place, cgroup, eventually, holds_within, subject};

subject! {
    container: container_is_a_scope_in_its_slice, slice_and_prefix_may_be_missing, slices_may_be_nested,
        limits_are_properties_that_outlive_a_reload, update_changes_the_properties,
        unified_limits_are_properties_as_well, one_process_alone_may_be_allowed,
        scope_of_another_is_refused, devices_stay_closed_after_a_reload, delete_takes_the_scope_away, exec_lands_in_the_scope,
        stopping_the_scope_stops_the_container, failed_one_leaves_no_scope,
        annotations_are_properties, paths_of_the_other_driver_are_refused, it_can_be_paused,
        user_has_scopes_of_his_own_systemd, user_has_them_from_a_group_of_roots;
}

fn needs_systemd(place: &Place) {
    if !Path::new("/run/systemd/system").exists() {
        place.cannot("systemd is not PID 1 here");
    }
    if !cgroup::is_v2() {
        place.cannot("systemd has not a pure cgroup v2 here");
    }
}

fn sleeper(place: &Place) -> Bundle {
    place.bundle().args(&["sleep", "1000"])
}

/// A running container with a scope of the usual name.
fn start<'a>(place: &'a Place, bundle: &Bundle) -> Container<'a> {
    start_in(place, bundle, &format!("system.slice:hull:{}", place.id))
}

fn start_in<'a>(place: &'a Place, bundle: &Bundle, path: &str) -> Container<'a> {
    let mut bundle = Bundle { dir: bundle.dir.clone(), config: bundle.config.clone() };
    if path.is_empty() {
        bundle = bundle.remove("/linux/cgroupsPath");
    } else {
        bundle = bundle.set("/linux/cgroupsPath", json!(path));
    }
    run(place, &bundle).ok();
    Container::named(place, &place.id)
}

fn run(place: &Place, bundle: &Bundle) -> Output {
    bundle.save();
    let call = place.hull().args(["--systemd-cgroup", "run", "--detach", "--bundle"]);
    call.arg(&bundle.dir).arg(&place.id).run()
}

/// Calls systemd as `busctl` does: `systemctl` would not talk to a systemd whose number it cannot
/// see from a PID namespace, when it is called by root.
fn manager(place: &Place, member: &str, args: &[&str]) {
    let name = "org.freedesktop.systemd1";
    let call = Call::new(&place.dir, "busctl").args(["call", name, "/org/freedesktop/systemd1"]);
    call.args(["org.freedesktop.systemd1.Manager", member]).args(args).ok();
}

fn reload(place: &Place) {
    manager(place, "Reload", &[]);
}

fn stop(place: &Place, unit: &str) {
    manager(place, "StopUnit", &["ss", unit, "replace"]);
}

fn scope(place: &Place) -> String {
    format!("hull-{}.scope", place.id)
}

/// One property of the scope.
fn property(place: &Place, name: &str) -> String {
    let show = Call::new(&place.dir, "systemctl").args(["show", "--value", "--property", name]);
    let nobody = || {
        // SAFETY: a system call with an integer.
        match unsafe { libc::setuid(65534) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    show.arg(scope(place)).before_exec(nobody).ok().stdout.trim().to_owned()
}

/// The cgroup of the container's first process, below the hierarchy's top.
fn group(container: &Container) -> PathBuf {
    let path = cgroup::of_process(container.pid(), "").expect("a group");
    path.strip_prefix(cgroup::MOUNT).expect("below the top").to_owned()
}

fn file(container: &Container, name: &str) -> String {
    let path = Path::new(cgroup::MOUNT).join(group(container)).join(name);
    fs::read_to_string(&path).expect("a file of the group").trim().to_owned()
}

fn container_is_a_scope_in_its_slice(place: &Place) {
    needs_systemd(place);
    let container = start(place, &sleeper(place));
    assert_eq!(group(&container), Path::new("system.slice").join(scope(place)));
    assert_eq!(property(place, "ActiveState"), "active");
    assert_eq!(property(place, "Slice"), "system.slice");
    assert_eq!(property(place, "Transient"), "yes");
    assert_eq!(property(place, "Delegate"), "yes");
    // Nobody is in it but the container.
    assert_eq!(file(&container, "cgroup.procs"), container.pid().to_string());
}

fn slice_and_prefix_may_be_missing(place: &Place) {
    needs_systemd(place);
    place.only_hull();
    for (path, unit) in [
        (String::new(), format!("hull-{}.scope", place.id)),
        (format!(":hull:{}", place.id), format!("hull-{}.scope", place.id)),
        (format!("::{}", place.id), format!("{}.scope", place.id)),
    ] {
        let container = start_in(place, &sleeper(place), &path);
        assert_eq!(group(&container), Path::new("system.slice").join(unit), "{path:?}");
        container.delete_force();
    }
}

fn slices_may_be_nested(place: &Place) {
    needs_systemd(place);
    let path = format!("hulltest-deep-er.slice:hull:{}", place.id);
    let container = start_in(place, &sleeper(place), &path);
    let slices = Path::new("hulltest.slice/hulltest-deep.slice/hulltest-deep-er.slice");
    assert_eq!(group(&container), slices.join(scope(place)));
    assert_eq!(property(place, "Slice"), "hulltest-deep-er.slice");
    container.delete_force();
    stop(place, "hulltest.slice");
}

fn limited(place: &Place) -> Bundle {
    sleeper(place).set(
        "/linux/resources",
        json!({
            "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
            "cpu": {"quota": 50_000, "period": 100_000, "cpus": "0", "shares": 2048},
            "pids": {"limit": 33},
        }),
    )
}

fn limits_are_properties_that_outlive_a_reload(place: &Place) {
    needs_systemd(place);
    let container = start(place, &limited(place));
    for (name, value) in [
        ("MemoryMax", "67108864"),
        ("MemorySwapMax", "33554432"),
        ("MemoryLow", "33554432"),
        ("TasksMax", "33"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("AllowedCPUs", "0"),
    ] {
        assert_eq!(property(place, name), value, "{name}");
    }
    reload(place);
    for (name, value) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("pids.max", "33"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0"),
    ] {
        assert_eq!(file(&container, name), value, "{name}");
    }
}

fn update_changes_the_properties(place: &Place) {
    needs_systemd(place);
    let container = start(place, &limited(place));
    let limits = ["--memory", "134217728", "--memory-swap", "134217728", "--pids-limit", "44"];
    let update = |limits: &[&str]| place.hull().arg("update").args(limits).arg(&place.id).ok();
    update(&limits);
    update(&["--cpu-period", "50000", "--cpu-quota", "10000"]);
    assert_eq!(property(place, "MemoryMax"), "134217728");
    assert_eq!(property(place, "TasksMax"), "44");
    assert_eq!(property(place, "CPUQuotaPerSecUSec"), "200ms");
    reload(place);
    for (name, value) in [
        ("memory.max", "134217728"),
        ("memory.swap.max", "0"),
        ("pids.max", "44"),
        ("cpu.max", "10000 50000"),
    ] {
        assert_eq!(file(&container, name), value, "{name}");
    }
    update(&["--memory", "-1", "--memory-swap", "-1", "--pids-limit", "-1", "--cpu-quota", "-1"]);
    assert_eq!(property(place, "MemoryMax"), "infinity");
    assert_eq!(property(place, "TasksMax"), "infinity");
    assert_eq!(
        (file(&container, "memory.max"), file(&container, "pids.max")),
        ("max".to_owned(), "max".to_owned())
    );
}

fn unified_limits_are_properties_as_well(place: &Place) {
    needs_systemd(place);
    let unified = json!({"memory.high": "67108864", "pids.max": "22", "cpu.max": "20000 100000"});
    let bundle = sleeper(place).set("/linux/resources/unified", unified);
    let container = start(place, &bundle);
    assert_eq!(property(place, "MemoryHigh"), "67108864");
    assert_eq!(property(place, "TasksMax"), "22");
    assert_eq!(property(place, "CPUQuotaPerSecUSec"), "200ms");
    reload(place);
    assert_eq!(file(&container, "memory.high"), "67108864");
}

/// What holds the scope open before the container is in must not count.
fn one_process_alone_may_be_allowed(place: &Place) {
    needs_systemd(place);
    let container = start(place, &sleeper(place).set("/linux/resources/pids", json!({"limit": 1})));
    assert_eq!(property(place, "TasksMax"), "1");
    assert_eq!(file(&container, "pids.max"), "1");
}

fn scope_of_another_is_refused(place: &Place) {
    needs_systemd(place);
    let container = start(place, &sleeper(place));
    let bundle =
        place.bundle().set("/linux/cgroupsPath", json!(format!("system.slice:hull:{}", place.id)));
    bundle.save();
    let call = place.hull().args(["--systemd-cgroup", "run", "--bundle"]).arg(&bundle.dir);
    call.arg(format!("{}-2", place.id)).run().complains(&["cgroup is not empty"]);
    assert_eq!(container.status(), "running");
}

fn devices_stay_closed_after_a_reload(place: &Place) {
    needs_systemd(place);
    let container = start(place, &sleeper(place));
    reload(place);
    let output = container.sh("mknod /tmp/mem c 1 1; head -c 1 /tmp/mem && echo read; head -c 1 /dev/zero >/dev/null && echo end");
    output.ok().does_not_say("read").says("end");
}

fn delete_takes_the_scope_away(place: &Place) {
    needs_systemd(place);
    let container = start(place, &sleeper(place));
    container.kill("KILL");
    container.becomes("stopped");
    container.delete();
    assert_eq!(property(place, "LoadState"), "not-found");
    assert_eq!(cgroup::named(&place.id), Vec::<PathBuf>::new());
    // The name can be had again at once.
    start(place, &sleeper(place)).delete_force();
    assert_eq!(property(place, "LoadState"), "not-found");
}

fn exec_lands_in_the_scope(place: &Place) {
    needs_systemd(place);
    let container = start(place, &sleeper(place));
    let path = format!("0::/system.slice/{}", scope(place));
    container.sh("cat /proc/self/cgroup").ok().prints(&path);
}

/// As an administrator does it, or the machine when it goes down.
fn stopping_the_scope_stops_the_container(place: &Place) {
    needs_systemd(place);
    let container =
        start(place, &place.bundle().sh("trap 'exit 0' TERM; while :; do sleep 0.1; done"));
    stop(place, &scope(place));
    container.becomes("stopped");
    container.delete();
}

fn failed_one_leaves_no_scope(place: &Place) {
    needs_systemd(place);
    let path = json!(format!("system.slice:hull:{}", place.id));
    let bundle = place.bundle().set("/linux/cgroupsPath", path);
    run(place, &bundle.args(&["no-such-program"])).fails();
    assert_eq!(property(place, "LoadState"), "not-found");
}

fn annotations_are_properties(place: &Place) {
    needs_systemd(place);
    let bundle = sleeper(place)
        .set("/annotations/org.systemd.property.Description", json!("'of a test'"))
        .set("/annotations/org.systemd.property.TimeoutStopUSec", json!("uint64 123456789"))
        .set("/annotations/org.systemd.property.CollectMode", json!("'inactive-or-failed'"));
    let _container = start(place, &bundle);
    assert_eq!(property(place, "Description"), "of a test");
    assert_eq!(property(place, "TimeoutStopUSec"), "2min 3.456789s");
    assert_eq!(property(place, "CollectMode"), "inactive-or-failed");
}

fn paths_of_the_other_driver_are_refused(place: &Place) {
    needs_systemd(place);
    let bundle = place.bundle().set("/linux/cgroupsPath", json!(format!("/{}", place.id)));
    run(place, &bundle).complains(&["slice:prefix:name"]);
}

fn it_can_be_paused(place: &Place) {
    needs_systemd(place);
    let container = start(place, &sleeper(place));
    container.command("pause").ok();
    assert_eq!(container.status(), "paused");
    assert_eq!(file(&container, "cgroup.freeze"), "1");
    container.command("resume").ok();
    container.sh("true").ok();
    container.command("pause").ok();
    container.delete_force();
}

/// The first ordinary user whose systemd runs.
fn user(place: &Place) -> u32 {
    let runs = |user: &u32| Path::new(&format!("/run/user/{user}/systemd/private")).exists();
    let users = fs::read_dir("/run/user").into_iter().flatten().flatten();
    users
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|user| *user != 0)
        .find(runs)
        .unwrap_or_else(|| place.cannot("no user's systemd runs here"))
}

/// A bundle of a user's with limits, and where his systemd puts its scope.
fn users(place: &Place, user: u32) -> (Bundle, PathBuf) {
    let bundle = rootless::bundle_of(place, user)
        .set("/linux/cgroupsPath", json!(format!("user.slice:hull:{}", place.id)))
        .set("/linux/resources", json!({"pids": {"limit": 44}, "memory": {"limit": 64 << 20}}))
        .args(&["sleep", "1000"]);
    bundle.save();
    let own = format!("user.slice/user-{user}.slice/user@{user}.service/user.slice");
    (bundle, Path::new(cgroup::MOUNT).join(own).join(scope(place)))
}

/// A file of a group, as far as it is there.
fn read(group: &Path, name: &str) -> String {
    fs::read_to_string(group.join(name)).unwrap_or_default().trim().to_owned()
}

/// Called as a service of the user's systemd, as a program in his session calls it that was moved
/// below it (podman does so).
fn user_has_scopes_of_his_own_systemd(place: &Place) {
    needs_systemd(place);
    let user = user(place);
    let (bundle, group) = users(place, user);
    let runtime = format!("/run/user/{user}");
    let run_as = |words: &[&str]| {
        let call = Call::new(&place.dir, "systemd-run");
        rootless::as_user(place, call, user, &rootless::home(place, user))
            .env("XDG_RUNTIME_DIR", &runtime)
            .args(["--user", "--quiet", "--wait", "--pipe", "--collect", "--"])
            .args([rootless::reachable(place).as_os_str()])
            .args(["--systemd-cgroup", "--root"])
            .arg(rootless::home(place, user).join("r"))
            .args(words)
            .run()
    };
    run_as(&["run", "--detach", "--bundle", tests::place::str(&bundle.dir), &place.id]).ok();
    assert_eq!(read(&group, "pids.max"), "44");
    assert_eq!(read(&group, "memory.max"), "67108864");
    let inside = run_as(&["exec", &place.id, "cat", "/proc/self/cgroup"]);
    inside.ok().says(&scope(place));
    run_as(&["update", "--pids-limit", "55", &place.id]).ok();
    assert_eq!(read(&group, "pids.max"), "55");
    run_as(&["kill", &place.id, "KILL"]).ok();
    eventually("it is gone", || (read(&group, "cgroup.procs").is_empty()).then_some(()));
    run_as(&["delete", "--force", &place.id]).ok();
    assert!(!group.exists());
}

/// As from a login, whose processes are in a group of root's: only systemd may move them out.
fn user_has_them_from_a_group_of_roots(place: &Place) {
    needs_systemd(place);
    place.only_hull();
    let user = user(place);
    let (bundle, group) = users(place, user);
    let home = rootless::home(place, user);
    fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o777)).expect("an open directory");
    let runtime = rootless::reachable(place);
    let script = format!(
        "exec >{home}/said 2>&1 </dev/null; hull() {{ {} --systemd-cgroup --root {home}/r $@; }}
         hull run --detach --bundle {} {id} && hull exec {id} cat /proc/self/cgroup &&
         cat {}/pids.max && hull delete --force {id} && echo all is well",
        runtime.display(),
        bundle.dir.display(),
        group.display(),
        home = home.display(),
        id = place.id,
    );
    let (unit, user) = (format!("{}.service", place.id), user.to_string());
    let environment = format!("XDG_RUNTIME_DIR=/run/user/{user}");
    let unit = [
        "ssa(sv)a(sa(sv))",
        unit.as_str(),
        "replace",
        "4",
        "User",
        "s",
        &user,
        "Type",
        "s",
        "oneshot",
    ];
    let environment = ["Environment", "as", "1", environment.as_str()];
    let program = place.script("by-user", &script);
    let program = tests::place::str(&program);
    let program = ["ExecStart", "a(sasb)", "1", program, "1", program, "false", "0"];
    let all = [&unit[..], &environment, &program].concat();
    manager(place, "StartTransientUnit", &all);
    let said = || fs::read_to_string(home.join("said")).unwrap_or_default();
    let well = holds_within(PATIENCE, || said().contains("all is well"));
    assert!(well && said().contains("\n44\n") && said().contains(&scope(place)), "{}", said());
    assert!(!group.exists());
}
