//! An ordinary user's containers.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tests::{Bundle, Call, Place, subject};

subject! {
    container: ordinary_user_runs_a_container, root_inside_is_the_user_outside, life_cycle_works_for_a_user,
        exec_works_for_a_user, ranges_are_mapped_by_newuidmap, devices_are_there_for_a_user,
        limits_that_cannot_be_had_are_said, state_is_kept_in_the_runtime_directory, rootless_template_runs,
        user_without_user_namespace_is_told, files_of_others_stay_closed, terminal_works_for_a_user,
        setgroups_is_denied_without_a_helper, two_users_do_not_see_each_other, rootless_can_be_forced_and_forbidden,
        engine_in_a_user_namespace_is_served, cgroups_are_shown_to_a_user,
        limits_of_a_delegated_group_are_set, group_of_another_is_no_obstacle;
}

const USER: u32 = 54321;

/// A bundle that user owns, made for a user namespace of one id.
fn bundle(place: &Place) -> Bundle {
    bundle_of(place, USER)
}

/// The same for a user of the system's.
pub(crate) fn bundle_of(place: &Place, user: u32) -> Bundle {
    let one = json!([{"containerID": 0, "hostID": user, "size": 1}]);
    let mut bundle = place
        .bundle()
        .namespace("user", None)
        .without_namespace("network")
        .remove("/linux/cgroupsPath")
        .remove("/linux/resources")
        .set("/linux/uidMappings", one.clone())
        .set("/linux/gidMappings", one);
    for mount in bundle.config["mounts"].as_array_mut().expect("mounts") {
        match mount["destination"].as_str() {
            Some("/dev/pts") => {
                mount["options"] =
                    json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"])
            }
            Some("/sys") => {
                *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
            }
            _ => {}
        }
    }
    give(&bundle, user);
    bundle
}

fn give(bundle: &Bundle, user: u32) {
    // Directories only: busybox's inode is shared by all bundles.
    let dirs = [
        "",
        "etc",
        "tmp",
        "home",
        "home/user",
        "root",
        "mnt",
        "run",
        "var",
        "var/tmp",
        "dev",
        "proc",
        "sys",
        "usr",
        "usr/bin",
        "bin",
        "etc/passwd",
        "etc/group",
    ];
    for dir in dirs {
        chown(bundle.rootfs().join(dir), Some(user), Some(user)).expect("given to the user");
    }
    chown(&bundle.dir, Some(user), Some(user)).expect("given to the user");
}

/// A directory that is a user's.
pub(crate) fn home(place: &Place, user: u32) -> PathBuf {
    let dir = place.new_dir("home");
    chown(&dir, Some(user), Some(user)).expect("given to the user");
    dir
}

/// The runtime called by a user of the system, with the first one's home.
fn by(place: &Place, user: u32, root: Option<&str>) -> Call {
    let mut call =
        as_user(place, Call::new(&place.dir, reachable(place)), user, &home(place, USER));
    if let Some(root) = root {
        call = call.arg("--root").arg(home(place, USER).join(root));
    }
    call
}

/// A call by a user of the system, with a home of its own.
pub(crate) fn as_user(place: &Place, call: Call, user: u32, home: &Path) -> Call {
    fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o777)).expect("an open directory");
    call.env("HOME", home).env("XDG_RUNTIME_DIR", home).in_dir(home).before_exec(move || {
        // SAFETY: system calls with integers and a null pointer.
        unsafe {
            if libc::setgroups(0, std::ptr::null()) != 0
                || libc::setgid(user) != 0
                || libc::setuid(user) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    })
}

/// The runtime where any user can execute it: not below a closed directory.
pub(crate) fn reachable(place: &Place) -> PathBuf {
    let copy = place.path("runtime");
    if !copy.exists() {
        fs::copy(&place.program, &copy).expect("a copy of the runtime");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    copy
}

fn run(place: &Place, bundle: &Bundle) -> tests::Output {
    bundle.save();
    by(place, USER, Some("r")).args(["run", "--bundle"]).arg(&bundle.dir).arg(&place.id).run()
}

fn ordinary_user_runs_a_container(place: &Place) {
    run(place, &bundle(place).sh("echo hello; hostname; exit 42"))
        .exits(42)
        .prints("hello\nhull-test");
}

fn root_inside_is_the_user_outside(place: &Place) {
    use std::os::unix::fs::MetadataExt;
    let bundle = bundle(place).sh("id -u; touch /tmp/f; tr -s ' ' </proc/self/uid_map");
    run(place, &bundle).ok().prints(&format!("0\n 0 {USER} 1"));
    assert_eq!(fs::metadata(bundle.rootfs().join("tmp/f")).expect("the file").uid(), USER);
}

fn life_cycle_works_for_a_user(place: &Place) {
    let bundle = bundle(place).args(&["sleep", "1000"]);
    bundle.save();
    let call = |args: &[&str]| by(place, USER, Some("r")).args(args).run();
    call(&["create", "--bundle", tests::place::str(&bundle.dir), &place.id]).ok();
    assert_eq!(call(&["state", &place.id]).ok().json()["status"], json!("created"));
    call(&["start", &place.id]).ok();
    assert_eq!(call(&["state", &place.id]).ok().json()["status"], json!("running"));
    call(&["list", "-q"]).ok().prints(&place.id);
    call(&["kill", &place.id, "KILL"]).ok();
    tests::eventually("it stops", || {
        (call(&["state", &place.id]).json()["status"] == json!("stopped")).then_some(())
    });
    call(&["delete", &place.id]).ok();
    call(&["state", &place.id]).fails();
}

fn exec_works_for_a_user(place: &Place) {
    let bundle = bundle(place).args(&["sleep", "1000"]);
    bundle.save();
    let call = |args: &[&str]| by(place, USER, Some("r")).args(args).run();
    call(&["run", "--detach", "--bundle", tests::place::str(&bundle.dir), &place.id]).ok();
    let output = call(&["exec", &place.id, "sh", "-c", "id -u; hostname; exit 3"]);
    call(&["delete", "--force", &place.id]).ok();
    output.exits(3).prints("0\nhull-test");
}

fn ranges_are_mapped_by_newuidmap(place: &Place) {
    place.needs("newuidmap");
    // newuidmap wants a name for its user, and a range of that name.
    let known = fs::read_to_string("/etc/passwd").expect("the host's users");
    let user = format!("{known}hull-test:x:{USER}:{USER}::/:/bin/false\n");
    let range = "hull-test:300000:65536\n".to_owned();
    let files = [("passwd", user), ("subuid", range.clone()), ("subgid", range)];
    for (name, text) in &files {
        let file = place.new_file(name, text);
        Call::new(&place.dir, "mount").arg("--bind").arg(&file).arg(format!("/etc/{name}")).ok();
    }
    let map = json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 300_000, "size": 65536}]);
    let bundle = bundle(place)
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .sh("tr -s ' ' </proc/self/uid_map; chown 5:6 /tmp; stat -c '%u %g' /tmp");
    let output = run(place, &bundle);
    chown(bundle.rootfs().join("tmp"), Some(USER), Some(USER)).expect("taken back");
    for (name, _) in &files {
        Call::new(&place.dir, "umount").arg(format!("/etc/{name}")).ok();
    }
    output.ok().prints(&format!("0 {USER} 1\n 1 300000 65536\n5 6"));
}

fn devices_are_there_for_a_user(place: &Place) {
    let script = "echo x >/dev/null; head -c 2 /dev/zero | od -An -tx1; test -c /dev/urandom && echo there; ls /dev/pts";
    run(place, &bundle(place).sh(script)).ok().says("00 00").says("there").says("ptmx");
}

fn limits_that_cannot_be_had_are_said(place: &Place) {
    place.only_hull();
    let bundle = bundle(place)
        .set("/linux/resources", json!({"memory": {"limit": 64 << 20}}))
        .sh("echo alive");
    let output = run(place, &bundle);
    let said = output.stderr.to_lowercase();
    assert!(
        said.contains("memory") || said.contains("cgroup"),
        "not a word about the limit: {output}"
    );
    if output.code() == 0 {
        output.prints("alive");
        assert_eq!(output.stderr.lines().count(), 1, "said once: {output}");
    }
}

fn state_is_kept_in_the_runtime_directory(place: &Place) {
    let bundle = bundle(place).args(&["sleep", "1000"]);
    bundle.save();
    by(place, USER, None)
        .args(["run", "--detach", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run()
        .ok();
    let found =
        ["hull", "runc"].iter().any(|name| home(place, USER).join(name).join(&place.id).exists());
    by(place, USER, None).args(["delete", "--force", &place.id]).run().ok();
    assert!(found, "not below XDG_RUNTIME_DIR");
}

fn rootless_template_runs(place: &Place) {
    let mut bundle = bundle(place);
    let output =
        by(place, USER, Some("r")).args(["spec", "--rootless", "--bundle"]).arg(&bundle.dir).run();
    output.ok();
    let text = fs::read_to_string(bundle.dir.join("config.json")).expect("the template");
    bundle.config = serde_json::from_str(&text).expect("JSON");
    let one: Value = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    assert_eq!(bundle.config["linux"]["uidMappings"], one);
    bundle.config["process"]["terminal"] = json!(false);
    bundle.config["root"]["readonly"] = json!(false);
    run(place, &bundle.sh("echo works")).ok().prints("works");
}

fn user_without_user_namespace_is_told(place: &Place) {
    let bundle = bundle(place)
        .without_namespace("user")
        .remove("/linux/uidMappings")
        .remove("/linux/gidMappings");
    run(place, &bundle).complains(&[
        "user namespace",
        "not permitted",
        "rootless",
        "permission denied",
    ]);
}

fn files_of_others_stay_closed(place: &Place) {
    let secret = place.new_file("secret", "secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("closed");
    let output = run(place, &bundle(place).bind(&secret, "/mnt/f", &[]).sh("cat /mnt/f"));
    output.fails().does_not_say("secret");
}

fn terminal_works_for_a_user(place: &Place) {
    let bundle =
        bundle(place).set("/process/terminal", json!(true)).sh("test -t 0 && echo a terminal");
    bundle.save();
    let home = home(place, USER);
    let socket = tests::terminal::ConsoleSocket::new(home.join("tty.sock"));
    chown(&socket.path, Some(USER), Some(USER)).expect("given to the user");
    let running = by(place, USER, Some("r"))
        .args(["run", "--detach", "--bundle"])
        .arg(&bundle.dir)
        .arg("--console-socket")
        .arg(&socket.path)
        .arg(&place.id)
        .spawn();
    let mut terminal = socket.receive();
    running.wait().ok();
    terminal.shows("a terminal");
    by(place, USER, Some("r")).args(["delete", "--force", &place.id]).run().ok();
}

fn setgroups_is_denied_without_a_helper(place: &Place) {
    run(place, &bundle(place).sh("cat /proc/self/setgroups")).ok().prints("deny");
    let groups = json!({"uid": 0, "gid": 0, "additionalGids": [5]});
    run(place, &bundle(place).set("/process/user", groups)).fails();
}

fn two_users_do_not_see_each_other(place: &Place) {
    let bundle = bundle(place).args(&["sleep", "1000"]);
    bundle.save();
    by(place, USER, Some("r"))
        .args(["run", "--detach", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run()
        .ok();
    let state = by(place, USER + 1, Some("r")).args(["state", &place.id]).run();
    let kill = by(place, USER + 1, Some("r")).args(["kill", &place.id, "KILL"]).run();
    by(place, USER, Some("r")).args(["delete", "--force", &place.id]).run().ok();
    kill.fails();
    let _ = state;
}

fn rootless_can_be_forced_and_forbidden(place: &Place) {
    place.only_hull();
    for word in ["true", "false", "auto"] {
        let bundle = place.bundle().sh("echo works");
        bundle.save();
        let output = place
            .hull()
            .args(["--rootless", word, "run", "--bundle"])
            .arg(&bundle.dir)
            .arg(&place.id)
            .run();
        if word == "true" {
            // Root without its privileges: it may be honoured or refused.
            if output.code() != 0 {
                output.fails();
            }
        } else {
            output.ok().prints("works");
        }
    }
    place.hull().args(["--rootless", "perhaps", "list"]).run().complains(&["rootless", "perhaps"]);
}

/// As podman run by a user does: it is root in a namespace of its own, the containers share it.
fn engine_in_a_user_namespace_is_served(place: &Place) {
    place.only_hull();
    let bundle = bundle(place)
        .without_namespace("user")
        .remove("/linux/uidMappings")
        .remove("/linux/gidMappings")
        .args(&["sleep", "1000"]);
    bundle.save();
    let script = format!(
        "set -e; hull={}; id={}
        $hull run --detach --bundle {} $id
        ls $XDG_RUNTIME_DIR/hull
        $hull exec $id sh -c 'echo inside; readlink /proc/self; exit 7' || echo $?
        $hull exec --detach $id true
        $hull delete --force $id",
        reachable(place).display(),
        place.id,
        bundle.dir.display()
    );
    as_user(place, Call::new(&place.dir, "unshare"), USER, &home(place, USER))
        .env_remove("USER")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .run()
        .ok()
        .says(&place.id)
        .says("inside")
        .says("7");
}

fn cgroups_are_shown_to_a_user(place: &Place) {
    for own in [false, true] {
        let mut bundle = bundle(place)
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"])
            .sh("find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs | head -1; touch /sys/fs/cgroup/x");
        if own {
            bundle = bundle.namespace("cgroup", None);
        }
        run(place, &bundle).says("cgroup.procs").complains(&["Read-only"]);
    }
}

fn limits_of_a_delegated_group_are_set(place: &Place) {
    let given = |name: &str| {
        let dir = tests::cgroup::controller(name)?.join(&place.id);
        fs::create_dir_all(&dir).expect("a group");
        for file in ["cpuset.cpus", "cpuset.mems"].map(|file| dir.join(file)) {
            let above = dir.parent().expect("a parent").join(file.file_name().expect("a name"));
            if let Ok(value) = fs::read(above) {
                let _ = fs::write(&file, value);
            }
        }
        for file in ["", "cgroup.procs", "tasks", "cgroup.subtree_control"] {
            let _ = chown(dir.join(file), Some(USER), Some(USER));
        }
        Some(dir)
    };
    let dirs = ["pids", "devices", "memory", "cpuset", "freezer"].map(given);
    let Some(pids) = &dirs[0] else { place.cannot("no controller pids on this host") };
    if tests::cgroup::is_v2() {
        place.cannot("moving into a delegated v2 group needs its common ancestor");
    }
    let bundle = bundle(place)
        .set("/linux/cgroupsPath", json!(format!("/{}/own", place.id)))
        .set("/linux/resources", json!({"pids": {"limit": 7}}))
        .set("/linux/devices", json!([{"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}]))
        .args(&["sleep", "1000"]);
    bundle.save();
    let call = |words: &[&str]| by(place, USER, Some("r")).args(words).arg(&place.id);
    call(&["run", "-d", "--bundle", tests::place::str(&bundle.dir)]).ok();
    assert_eq!(fs::read_to_string(pids.join("own/pids.max")).expect("a limit").trim(), "7");
    call(&["pause"]).ok();
    call(&["state"]).ok().says("paused");
    call(&["delete", "--force"]).ok();
    for dir in dirs.into_iter().flatten() {
        fs::remove_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    }
}

fn group_of_another_is_no_obstacle(place: &Place) {
    let of_root: Vec<_> = ["cpuset", "devices", "pids"]
        .into_iter()
        .filter_map(|name| tests::cgroup::of_process(std::process::id() as i32, name))
        .map(|own| own.join(&place.id))
        .collect();
    for dir in &of_root {
        fs::create_dir_all(dir).expect("a group");
    }
    let output = run(place, &bundle(place).sh("echo alive"));
    for dir in &of_root {
        let _ = fs::remove_dir(dir);
    }
    output.ok().prints("alive");
}
