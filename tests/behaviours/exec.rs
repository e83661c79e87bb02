//! A second process in a container.

use serde_json::json;
use std::fs;
use tests::{Bundle, Container, Place, cgroup, eventually, subject};

subject! {
    both: it_runs_inside, its_status_is_passed_on, its_death_by_signal_is_passed_on, environment_is_the_configs_and_its_own,
        working_directory_can_be_given, user_can_be_given, groups_can_be_given, capabilities_can_be_added,
        no_new_privileges_can_be_given, process_file_says_it_all, detached_one_returns_and_has_a_pid,
        missing_executable_is_named, unknown_container_is_named, stopped_container_is_refused,
        created_container_is_open_to_it, several_at_once_do_not_mix, it_sees_the_first_process,
        it_ends_with_the_container, options_after_the_id_are_the_commands, seccomp_holds_for_it_too,
        capabilities_are_the_containers, hostname_is_the_containers, signals_are_passed_on,
        rlimits_are_the_configs, missing_working_directory_is_refused, wrong_process_file_is_named;
    container: it_joins_the_cgroups, it_can_join_a_cgroup_below, it_goes_where_the_first_process_went, descriptors_are_preserved,
        descriptors_do_not_leak, ignore_paused_waits_for_the_end_of_the_pause, it_joins_the_user_namespace,
        unknown_apparmor_profile_is_refused, apparmor_profile_confines_it_too, it_has_the_umask_of_the_config, it_joins_all_namespaces;
}

fn sleeper(place: &Place) -> Bundle {
    place.bundle().args(&["sleep", "1000"])
}

fn started(place: &Place) -> Container<'_> {
    place.start(&sleeper(place))
}

fn it_runs_inside(place: &Place) {
    let container = place.start(&sleeper(place).file("/etc/mark", "inside", 0o644));
    container.exec(&["cat", "/etc/mark"]).ok().prints("inside");
}

fn its_status_is_passed_on(place: &Place) {
    let container = started(place);
    for code in [0, 1, 42, 255] {
        container.sh(&format!("exit {code}")).exits(code);
    }
}

fn its_death_by_signal_is_passed_on(place: &Place) {
    let container = started(place);
    container.sh("kill -KILL $$").exits(137);
    container.sh("kill -TERM $$").exits(143);
    container.sh("kill -SEGV $$").exits(139);
}

fn environment_is_the_configs_and_its_own(place: &Place) {
    let container = place.start(&sleeper(place).env("A=config").env("B=config"));
    let output = container
        .exec_with(&["--env", "B=exec", "--env", "C=x y"], &["sh", "-c", "echo $A,$B,$C,$HOME"])
        .run();
    output.ok().prints("config,exec,x y,/root");
}

fn working_directory_can_be_given(place: &Place) {
    let container = place.start(&sleeper(place).set("/process/cwd", json!("/home")));
    container.exec(&["pwd"]).ok().prints("/home");
    container.exec_with(&["--cwd", "/tmp"], &["pwd"]).ok().prints("/tmp");
}

fn missing_working_directory_is_refused(place: &Place) {
    let container = started(place);
    let output = container.exec_with(&["--cwd", "/no/such"], &["pwd"]).run();
    if output.code() == 0 {
        // runc makes it.
        output.prints("/no/such");
    } else {
        output.complains(&["/no/such"]);
    }
}

fn user_can_be_given(place: &Place) {
    let container = started(place);
    container
        .exec_with(&["--user", "1000:29"], &["sh", "-c", "id -u; id -g"])
        .ok()
        .prints("1000\n29");
    container.exec_with(&["-u", "1000"], &["id", "-u"]).ok().prints("1000");
    container.exec_with(&["--user", "nobody-here"], &["id"]).run().fails();
}

fn groups_can_be_given(place: &Place) {
    let container = started(place);
    container
        .exec_with(
            &["--user", "1000:1000", "--additional-gids", "29", "--additional-gids", "77"],
            &["id", "-G"],
        )
        .ok()
        .prints("1000 29 77");
}

fn effective(container: &Container, options: &[&str]) -> u64 {
    let output = container.exec_with(options, &["grep", "CapEff", "/proc/self/status"]).run();
    u64::from_str_radix(output.ok().stdout.split_whitespace().last().unwrap_or(""), 16)
        .expect("a mask")
}

fn capabilities_can_be_added(place: &Place) {
    let container = started(place);
    let sys_admin = 1 << 21;
    assert_eq!(effective(&container, &[]) & sys_admin, 0);
    assert_eq!(effective(&container, &["--cap", "CAP_SYS_ADMIN"]) & sys_admin, sys_admin);
    // runc warns, others refuse; nobody is silent.
    let output = container.exec_with(&["--cap", "CAP_NO_SUCH"], &["true"]).run();
    assert!(output.stderr.contains("CAP_NO_SUCH"), "{output}");
}

fn capabilities_are_the_containers(place: &Place) {
    let container = place.start(&sleeper(place).capabilities(&["CAP_KILL"]));
    assert_eq!(effective(&container, &[]), 1 << 5);
}

fn no_new_privileges_can_be_given(place: &Place) {
    let container = place.start(&sleeper(place).set("/process/noNewPrivileges", json!(false)));
    let shown = |options: &[&str]| {
        container
            .exec_with(options, &["grep", "NoNewPrivs", "/proc/self/status"])
            .ok()
            .stdout
            .trim()
            .to_owned()
    };
    assert_eq!(shown(&[]), "NoNewPrivs:\t0");
    assert_eq!(shown(&["--no-new-privs"]), "NoNewPrivs:\t1");
}

fn process_file_says_it_all(place: &Place) {
    let umask = if place.is_hull() { 63 } else { 18 };
    let container = started(place);
    let file = place.new_file(
        "process.json",
        json!({
            "args": ["sh", "-c", "pwd; id -u; id -G; umask; echo $MARK"],
            "cwd": "/tmp",
            "env": ["PATH=/bin", "MARK=from file"],
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [5, 6], "umask": umask},
        })
        .to_string(),
    );
    let output = place.hull().args(["exec", "--process"]).arg(&file).arg(&place.id).run();
    output.ok().prints(&format!("/tmp\n1000\n1000 5 6\n{umask:04o}\nfrom file"));
    drop(container);
}

fn wrong_process_file_is_named(place: &Place) {
    let container = started(place);
    for text in ["{", "{}", "{\"args\": []}", "{\"args\": [\"true\"], \"cwd\": \"relative\"}", "[]"]
    {
        let file = place.new_file("process.json", text);
        place.hull().args(["exec", "--process"]).arg(&file).arg(&place.id).run().fails();
    }
    place.call(&["exec", "--process", "/no/such/file", &place.id]).complains(&["/no/such/file"]);
    drop(container);
}

fn detached_one_returns_and_has_a_pid(place: &Place) {
    let container = started(place);
    let file = place.path("pid");
    let options = ["--detach", "--pid-file", tests::place::str(&file)];
    container.exec_with(&options, &["sh", "-c", "touch /began; sleep 1000"]).ok();
    eventually("it began", || place.path("b/rootfs/began").exists().then_some(()));
    let pid: i32 = fs::read_to_string(&file).expect("a pid file").parse().expect("a number");
    assert!(fs::exists(format!("/proc/{pid}")).expect("looked up"), "{pid}");
    assert_ne!(pid, container.pid());
}

fn missing_executable_is_named(place: &Place) {
    let container = started(place);
    container.exec(&["no-such-program"]).run().complains(&["executable file not found in $PATH"]);
    container.exec(&["/no/such/program"]).run().complains(&["no such file or directory"]);
    container.exec(&["/etc/passwd"]).run().complains(&["permission denied"]);
}

fn unknown_container_is_named(place: &Place) {
    place.call(&["exec", "no-such-one", "true"]).complains(&["does not exist", "no-such-one"]);
}

fn stopped_container_is_refused(place: &Place) {
    let container = place.start(&place.bundle());
    container.becomes("stopped");
    container.exec(&["true"]).run().complains(&["stopped", "not running"]);
}

fn created_container_is_open_to_it(place: &Place) {
    let container = place.create(&sleeper(place));
    container.sh("echo early").ok().prints("early");
    assert_eq!(container.status(), "created");
}

fn several_at_once_do_not_mix(place: &Place) {
    let container = started(place);
    let running: Vec<_> = (0..8)
        .map(|n| (n, container.exec(&["sh", "-c", &format!("i=0; while [ $i -lt 200 ]; do echo line {n}; i=$((i+1)); done; exit {n}")]).spawn()))
        .collect();
    for (n, one) in running {
        let output = one.wait();
        output.exits(n);
        assert_eq!(output.stdout, format!("line {n}\n").repeat(200));
    }
}

fn it_sees_the_first_process(place: &Place) {
    let container = started(place);
    container.sh("tr '\\0' ' ' </proc/1/cmdline").ok().prints("sleep 1000");
}

fn it_ends_with_the_container(place: &Place) {
    let container = started(place);
    let mut running = container.exec(&["sh", "-c", "echo ready; sleep 1000"]).spawn();
    running.says("ready");
    container.kill("KILL");
    assert_ne!(running.wait().code(), 0);
    container.becomes("stopped");
}

fn options_after_the_id_are_the_commands(place: &Place) {
    let container = started(place);
    container.exec(&["echo", "--tty", "-d", "--", "--user"]).ok().prints("--tty -d -- --user");
}

fn seccomp_holds_for_it_too(place: &Place) {
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    let container = place.start(&sleeper(place).set("/linux/seccomp", seccomp));
    let output = container.sh("mkdir /tmp/x");
    output.exits(1);
    assert!(output.stderr.contains("not supported"), "{output}");
}

fn hostname_is_the_containers(place: &Place) {
    started(place).exec(&["hostname"]).ok().prints("hull-test");
}

fn signals_are_passed_on(place: &Place) {
    let container = started(place);
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = container.exec(&["sh", "-c", script]).spawn();
    running.says("ready");
    running.signal(libc::SIGTERM);
    running.wait().exits(9);
    assert_eq!(container.status(), "running");
}

fn rlimits_are_the_configs(place: &Place) {
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]);
    let container = place.start(&sleeper(place).set("/process/rlimits", limits));
    container.sh("ulimit -Sn; ulimit -Hn").ok().prints("77\n99");
}

fn it_joins_the_cgroups(place: &Place) {
    let container = started(place);
    let mut running = container.exec(&["sh", "-c", "echo ready; sleep 1000"]).spawn();
    running.says("ready");
    for controller in ["memory", "pids", "freezer"] {
        if let Some(dir) = tests::cgroup::of_process(container.pid(), controller) {
            let procs = fs::read_to_string(dir.join("cgroup.procs")).expect("its processes");
            assert!(procs.lines().count() >= 2, "{}: {procs}", dir.display());
        }
    }
    container.delete_force();
    let _ = running.wait();
}

fn it_can_join_a_cgroup_below(place: &Place) {
    if tests::cgroup::is_v2() {
        place.cannot("a group with processes has none below it on version 2");
    }
    let container = started(place);
    let dir = tests::cgroup::of_process(container.pid(), "pids").expect("a group of pids");
    for hierarchy in tests::cgroup::hierarchies() {
        let above = hierarchy.join(dir.file_name().expect("a name"));
        let below = above.join("below");
        let _ = fs::create_dir(&below);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = fs::read(above.join(file)) {
                let _ = fs::write(below.join(file), all);
            }
        }
    }
    container
        .exec_with(&["--cgroup", "below"], &["sh", "-c", "cat /proc/self/cgroup"])
        .ok()
        .says("below\n");
    container.exec_with(&["--cgroup", "no-such"], &["true"]).run().fails();
    container.exec_with(&["--cgroup", "../.."], &["true"]).run().fails();
}

fn descriptors(place: &Place, options: &[&str]) -> tests::Output {
    use std::os::fd::AsRawFd;
    let container = started(place);
    let file = fs::File::open("/etc/passwd").expect("a file");
    let raw = file.as_raw_fd();
    container
        .exec_with(options, &["ls", "/proc/self/fd"])
        .before_exec(move || {
            // SAFETY: descriptors of this process.
            unsafe {
                libc::dup2(raw, 9);
                libc::dup2(9, 3);
                libc::close(9);
            }
            Ok(())
        })
        .run()
}

fn descriptors_are_preserved(place: &Place) {
    let output = descriptors(place, &["--preserve-fds", "1"]);
    assert_eq!(output.ok().lines(), ["0", "1", "2", "3", "4"], "{output}");
}

fn descriptors_do_not_leak(place: &Place) {
    let output = descriptors(place, &[]);
    assert_eq!(output.ok().lines(), ["0", "1", "2", "3"], "{output}");
}

fn ignore_paused_waits_for_the_end_of_the_pause(place: &Place) {
    let container = started(place);
    container.command("pause").ok();
    let mut running = container.exec_with(&["--ignore-paused"], &["echo", "late"]).spawn();
    assert!(!tests::holds_within(std::time::Duration::from_millis(300), || !running.runs()));
    container.command("resume").ok();
    running.wait().ok().prints("late");
}

fn it_joins_the_user_namespace(place: &Place) {
    let container = place.start(&sleeper(place).user_namespace());
    container.sh("id -u; cat /proc/self/uid_map | tr -s ' '").ok().prints("0\n 0 100000 65536");
}

fn unknown_apparmor_profile_is_refused(place: &Place) {
    if std::path::Path::new("/sys/module/apparmor/parameters/enabled").exists() {
        place.cannot("AppArmor is here");
    }
    let container = started(place);
    container.exec_with(&["--apparmor", "hull-test"], &["true"]).run().complains(&["apparmor"]);
}

/// A profile in the kernel's hands while this lives.
struct Profile {
    parser: std::path::PathBuf,
    file: std::path::PathBuf,
}

impl Profile {
    fn load(place: &Place, name: &str, rules: &str) -> Profile {
        let parser = place.needs("apparmor_parser");
        if fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default()
            != "Y\n"
        {
            place.cannot("the kernel runs without AppArmor");
        }
        let text = format!("profile {name} flags=(attach_disconnected) {{\n{rules}\n}}\n");
        let profile = Profile { parser, file: place.new_file("profile", text) };
        let done = profile.parse("--replace").unwrap();
        assert!(done.status.success(), "{done:?}");
        profile
    }

    fn parse(&self, option: &str) -> std::io::Result<std::process::Output> {
        let mut parser = std::process::Command::new(&self.parser);
        parser.args(["--skip-cache", option]).arg(&self.file).output()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = self.parse("--remove");
    }
}

fn apparmor_profile_confines_it_too(place: &Place) {
    let name = "hull-test-secret";
    let rules = "file, capability, signal, mount, umount, ptrace, deny /secret rw,";
    let _profile = Profile::load(place, name, rules);
    let bundle = sleeper(place).file("/secret", "told", 0o644);
    let container = place.start(&bundle.set("/process/apparmorProfile", json!(name)));
    container.sh("cat /proc/1/attr/current").ok().prints(&format!("{name} (enforce)"));
    container.sh("cat /proc/self/attr/current").ok().prints(&format!("{name} (enforce)"));
    container.sh("cat /secret").complains(&["denied"]);
    container
        .exec_with(&["--apparmor", "unconfined"], &["cat", "/secret"])
        .run()
        .ok()
        .prints("told");
}

fn it_has_the_umask_of_the_config(place: &Place) {
    place.only_hull();
    let container = place.start(&sleeper(place).set("/process/user/umask", json!(0o027)));
    container.sh("umask").ok().prints("0027");
}

fn it_joins_all_namespaces(place: &Place) {
    let container = place.start(&sleeper(place).namespace("cgroup", None));
    let pid = container.pid();
    let inside = container
        .sh("for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done");
    let outside: Vec<String> = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
        .iter()
        .map(|n| {
            fs::read_link(format!("/proc/{pid}/ns/{n}")).expect("a namespace").display().to_string()
        })
        .collect();
    assert_eq!(inside.ok().lines(), outside);
}

/// On version 2: the container's own group may have been divided, or left and removed.
fn it_goes_where_the_first_process_went(place: &Place) {
    if !cgroup::is_v2() {
        place.cannot("needs a pure cgroup v2");
    }
    let script = "cd /sys/fs/cgroup; mkdir first; echo 1 >first/cgroup.procs
        echo +pids >cgroup.subtree_control && echo divided; exec sleep 1000";
    let bundle = place
        .bundle()
        .namespace("cgroup", None)
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
        .sh(script);
    let container = place.start(&bundle);
    container.says("divided");
    container.exec(&["cat", "/proc/self/cgroup"]).ok().prints("0::/first");
    container.exec_with(&["--cgroup", "/"], &["true"]).run().complains(&["busy"]);
    let top = std::path::Path::new(cgroup::MOUNT);
    let elsewhere = top.join(format!("{}-elsewhere", place.id));
    fs::create_dir(&elsewhere).expect("another group");
    fs::write(elsewhere.join("cgroup.procs"), container.pid().to_string()).expect("moved");
    for dir in ["first", ""] {
        fs::remove_dir(top.join(&place.id).join(dir)).expect("the own group removed");
    }
    let there = container.exec(&["cat", "/proc/self/cgroup"]).ok();
    assert!(there.stdout.contains("-elsewhere"), "{there}");
    container.delete_force();
    fs::remove_dir(elsewhere).expect("the other group removed");
}
