//! What the command line says about itself: version, help, template, features,
//! the host's check, the log.

use serde_json::{Value, json};
use std::fs;
use tests::{Call, Place, subject};

subject! {
    both: version_is_shown, log_in_json_is_read_by_engines, log_in_text_is_runcs, log_format_that_is_unknown_is_refused,
        debug_says_more, error_goes_to_stderr_too, log_that_cannot_be_written_is_no_obstacle,
        isolation_can_be_asked_for, unknown_isolation_is_refused, flags_take_their_value_both_ways, pidfd_is_sent_to_a_socket;
    container: help_is_shown, template_is_runcs, template_is_not_overwritten, template_runs, template_goes_to_the_bundle,
        features_are_json_with_the_specs_fields, features_name_what_is_honoured, check_names_what_the_host_has,
        check_is_json_when_asked, log_is_appended_to, log_through_a_descriptor_works, other_root_is_another_world,
        hull_toml_is_read, broken_hull_toml_is_named,
        it_goes_by_the_name_it_was_called_by, list_of_a_missing_root_is_an_error;
    microvm: name_chooses_the_wall, annotation_chooses_the_wall, vm_object_chooses_the_wall, annotation_sets_the_size,
        spec_sets_the_size, memory_limit_sizes_the_guest, phases_are_shown_by_debug, guest_has_its_own_kernel,
        weaker_wall_is_never_taken_silently, kernel_parameters_reach_the_guest, initrd_of_ones_own_is_unpacked;
}

fn version_is_shown(place: &Place) {
    let output = Call::new(&place.dir, &place.program).arg("--version").ok();
    output.says("version").says("spec: 1.");
    Call::new(&place.dir, &place.program).arg("-v").ok().says("version");
}

fn help_is_shown(place: &Place) {
    let output = Call::new(&place.dir, &place.program).arg("--help").ok();
    for command in [
        "create", "start", "run", "state", "kill", "delete", "exec", "ps", "pause", "resume",
        "update", "events", "spec", "features",
    ] {
        output.says(command);
        Call::new(&place.dir, &place.program).args([command, "--help"]).ok();
    }
}

/// The lines of a log that a failing call wrote.
fn log_of(place: &Place, format: &[&str]) -> (tests::Output, Vec<String>) {
    let log = place.path("log");
    let output = Call::new(&place.dir, &place.program)
        .arg("--root")
        .arg(place.root())
        .arg("--log")
        .arg(&log)
        .args(format)
        .args(["state", "no-such-one"])
        .run();
    output.fails();
    let lines = fs::read_to_string(log).expect("a log").lines().map(str::to_owned).collect();
    (output, lines)
}

fn log_in_json_is_read_by_engines(place: &Place) {
    let (_, lines) = log_of(place, &["--log-format", "json"]);
    let last: Value = serde_json::from_str(lines.last().expect("a line")).expect("JSON");
    assert_eq!(last["level"], json!("error"));
    assert!(
        last["msg"]
            .as_str()
            .is_some_and(|msg| msg.contains("no-such-one") || msg.contains("does not exist")),
        "{last}"
    );
    assert!(
        last["time"].as_str().is_some_and(|time| time.starts_with("20") && time.contains('T')),
        "{last}"
    );
}

fn log_in_text_is_runcs(place: &Place) {
    let (_, lines) = log_of(place, &[]);
    let last = lines.last().expect("a line");
    assert!(last.starts_with("time=\"20") && last.contains(" level=error msg="), "{last}");
}

fn log_format_that_is_unknown_is_refused(place: &Place) {
    Call::new(&place.dir, &place.program)
        .args(["--log-format", "xml", "list"])
        .run()
        .complains(&["xml", "log-format"]);
}

fn error_goes_to_stderr_too(place: &Place) {
    let (output, _) = log_of(place, &["--log-format", "json"]);
    assert!(
        output.stderr.contains("does not exist") || output.stderr.contains("no-such-one"),
        "{output}"
    );
}

fn log_is_appended_to(place: &Place) {
    log_of(place, &[]);
    let (_, lines) = log_of(place, &[]);
    assert_eq!(lines.len(), 2);
}

fn log_through_a_descriptor_works(place: &Place) {
    Call::new(&place.dir, &place.program)
        .args(["--log", "/dev/stderr", "state", "no-such-one"])
        .run()
        .complains(&["no-such-one", "does not exist"]);
}

fn log_that_cannot_be_written_is_no_obstacle(place: &Place) {
    let output = Call::new(&place.dir, &place.program)
        .arg("--root")
        .arg(place.root())
        .args(["--log", "/no/such/dir/log", "state", "no-such-one"])
        .run();
    // runc refuses; what counts is that it is said.
    assert!(output.stderr.contains("/no/such/dir/log"), "{output}");
}

fn debug_says_more(place: &Place) {
    let log = place.path("log");
    let bundle = place.bundle().sh("exit 3");
    bundle.save();
    let output = Call::new(&place.dir, &place.program)
        .arg("--debug")
        .arg("--log")
        .arg(&log)
        .arg("--root")
        .arg(place.root())
        .args(["run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run();
    output.exits(3);
    assert!(
        fs::read_to_string(log).unwrap_or_default().contains("debug")
            || output.stderr.contains("debug"),
        "{output}"
    );
}

fn flags_take_their_value_both_ways(place: &Place) {
    let bundle = place.bundle().sh("echo works");
    bundle.save();
    let dir = bundle.dir.display();
    for flag in [format!("--bundle={dir}"), format!("-b={dir}")] {
        place.call(&["run", &flag, &place.id]).ok().prints("works");
    }
}

fn template_is_runcs(place: &Place) {
    let dir = place.new_dir("new");
    Call::new(&place.dir, &place.program).arg("spec").in_dir(&dir).ok();
    let template: Value =
        serde_json::from_str(&fs::read_to_string(dir.join("config.json")).expect("written"))
            .expect("JSON");
    assert_eq!(template["process"]["terminal"], json!(true));
    assert_eq!(template["process"]["args"], json!(["sh"]));
    assert_eq!(template["root"], json!({"path": "rootfs", "readonly": true}));
    assert_eq!(
        template["process"]["rlimits"],
        json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}])
    );
    assert_eq!(template["process"]["noNewPrivileges"], json!(true));
    assert!(template["hostname"].is_string());
    let points: Vec<&str> = template["mounts"]
        .as_array()
        .expect("mounts")
        .iter()
        .filter_map(|m| m["destination"].as_str())
        .collect();
    assert_eq!(
        points,
        ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]
    );
    let kinds: Vec<&str> = template["linux"]["namespaces"]
        .as_array()
        .expect("namespaces")
        .iter()
        .filter_map(|n| n["type"].as_str())
        .collect();
    for kind in ["pid", "network", "ipc", "uts", "mount"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
}

fn template_is_not_overwritten(place: &Place) {
    let dir = place.new_dir("new");
    fs::write(dir.join("config.json"), "mine").expect("a file");
    Call::new(&place.dir, &place.program).arg("spec").in_dir(&dir).run().complains(&["exists"]);
    assert_eq!(fs::read_to_string(dir.join("config.json")).expect("the file"), "mine");
}

fn template_goes_to_the_bundle(place: &Place) {
    let dir = place.new_dir("new");
    Call::new(&place.dir, &place.program).args(["spec", "--bundle"]).arg(&dir).ok();
    assert!(dir.join("config.json").exists());
}

fn template_runs(place: &Place) {
    let mut bundle = place.bundle();
    Call::new(&place.dir, &place.program).arg("spec").in_dir(&bundle.dir).ok();
    bundle.config =
        serde_json::from_str(&fs::read_to_string(bundle.dir.join("config.json")).expect("written"))
            .expect("JSON");
    let bundle = bundle
        .set("/process/terminal", json!(false))
        .sh("echo works")
        .set("/linux/cgroupsPath", json!(format!("/{}", place.id)));
    place.run(&bundle).ok().prints("works");
}

fn features(place: &Place) -> Value {
    Call::new(&place.dir, &place.program).arg("features").ok().json()
}

fn features_are_json_with_the_specs_fields(place: &Place) {
    let features = features(place);
    assert!(features["ociVersionMin"].as_str().is_some_and(|v| v.starts_with("1.0")), "{features}");
    assert!(features["ociVersionMax"].as_str().is_some_and(|v| v.starts_with("1.")), "{features}");
    for field in ["hooks", "mountOptions"] {
        assert!(
            features[field].as_array().is_some_and(|list| !list.is_empty()),
            "{field}: {features}"
        );
    }
    for field in ["namespaces", "capabilities", "cgroup", "seccomp"] {
        assert!(!features["linux"][field].is_null(), "{field}: {features}");
    }
}

fn features_name_what_is_honoured(place: &Place) {
    place.only_hull();
    let features = features(place);
    let has = |pointer: &str, word: &str| {
        let list = features
            .pointer(pointer)
            .and_then(Value::as_array)
            .unwrap_or_else(|| panic!("no {pointer}"));
        assert!(list.iter().any(|value| value == word), "{word} is not in {pointer}");
    };
    for hook in
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    {
        has("/hooks", hook);
    }
    for option in
        ["ro", "rro", "rbind", "rprivate", "noexec", "idmap", "tmpcopyup", "unbindable", "relatime"]
    {
        has("/mountOptions", option);
    }
    for kind in ["pid", "network", "mount", "ipc", "uts", "cgroup", "user", "time"] {
        has("/linux/namespaces", kind);
    }
    for action in [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_LOG",
    ] {
        has("/linux/seccomp/actions", action);
    }
    has("/linux/capabilities", "CAP_SYS_ADMIN");
    has("/linux/capabilities", "CAP_CHECKPOINT_RESTORE");
    for pointer in [
        "/linux/cgroup/v1",
        "/linux/cgroup/v2",
        "/linux/seccomp/enabled",
        "/linux/mountExtensions/idmap/enabled",
    ] {
        assert_eq!(features.pointer(pointer), Some(&json!(true)), "{pointer}");
    }
}

fn check_names_what_the_host_has(place: &Place) {
    place.only_hull();
    let output = Call::new(&place.dir, &place.program).arg("check").ok();
    let text = output.stdout.to_lowercase();
    for word in
        ["kvm", "cgroup", "namespaces", "seccomp", "vhost", "iommu", "huge", "ksm", "apparmor"]
    {
        assert!(text.contains(word), "nothing about {word}: {output}");
    }
}

fn check_is_json_when_asked(place: &Place) {
    place.only_hull();
    let report =
        Call::new(&place.dir, &place.program).args(["check", "--format", "json"]).ok().json();
    let items = report["items"].as_array().expect("items");
    let kvm = items.iter().find(|item| item["name"] == "kvm").expect("about KVM");
    assert_eq!(kvm["status"] == json!("no"), !fs::exists("/dev/kvm").expect("looked up"), "{kvm}");
}

fn other_root_is_another_world(place: &Place) {
    let _container = place.create(&place.bundle());
    let other = place.new_dir("other");
    let call = |args: &[&str]| {
        Call::new(&place.dir, &place.program).arg("--root").arg(&other).args(args).run()
    };
    call(&["list", "-q"]).ok().prints("");
    call(&["state", &place.id]).fails();
}

fn hull_toml_is_read(place: &Place) {
    place.only_hull();
    let file = place.new_file("hull.toml", "isolation = \"container\"\n");
    let bundle = place.bundle().sh("echo works");
    bundle.save();
    place
        .hull()
        .arg("--config")
        .arg(&file)
        .args(["run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run()
        .ok()
        .prints("works");
}

fn broken_hull_toml_is_named(place: &Place) {
    place.only_hull();
    for text in ["isolation = \"paper\"", "= 3", "no-such-key = 1"] {
        let file = place.new_file("broken.toml", text);
        let bundle = place.bundle();
        bundle.save();
        place
            .hull()
            .arg("--config")
            .arg(&file)
            .args(["run", "--bundle"])
            .arg(&bundle.dir)
            .arg(&place.id)
            .run()
            .complains(&["broken.toml"]);
    }
    let bundle = place.bundle();
    bundle.save();
    place
        .hull()
        .args(["--config", "/no/such.toml", "run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run()
        .complains(&["/no/such.toml"]);
}

fn isolation_can_be_asked_for(place: &Place) {
    place.only_hull();
    let bundle = place.bundle().args(&["cat", "/proc/version"]);
    bundle.save();
    let word = place.wall.name();
    let output = place
        .hull()
        .args(["--isolation", word, "run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run();
    let own = fs::read_to_string("/proc/version").expect("the host's");
    if !place.is_vm() {
        output.ok().prints(own.trim());
    } else if place.kernel.is_some() {
        assert_ne!(output.ok().stdout.trim(), own.trim());
    }
}

fn unknown_isolation_is_refused(place: &Place) {
    place.only_hull();
    let bundle = place.bundle();
    bundle.save();
    place
        .hull()
        .args(["--isolation", "paper", "run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run()
        .complains(&["paper"]);
}

/// `hull`, not `hull-vm`.
fn plain(place: &Place) -> Call {
    Call::new(&place.dir, place.program.with_file_name("hull")).arg("--root").arg(place.root())
}

/// A bundle that prints how many processors its kernel sees and its name.
fn telling(place: &Place) -> tests::Bundle {
    place.bundle().sh("nproc; sed -n 's/^MemTotal: *//p' /proc/meminfo; test -e /sys/class/dmi || cat /proc/cmdline")
}

fn guest_has_its_own_kernel(place: &Place) {
    let uptime = place
        .run(&place.bundle().sh("cut -d. -f1 /proc/uptime"))
        .ok()
        .stdout
        .trim()
        .parse::<u64>()
        .expect("seconds");
    assert!(uptime < 120, "{uptime} s: that is the host's kernel");
}

fn name_chooses_the_wall(place: &Place) {
    assert!(place.program.ends_with("hull-vm"));
    let bundle = place.bundle().remove("/vm").args(&["cut", "-d.", "-f1", "/proc/uptime"]);
    let mut bundle = bundle;
    if let Some(kernel) = &place.kernel {
        bundle = bundle.set("/annotations", json!({"run.hull.kernel": kernel}));
    }
    let uptime: u64 = place.run(&bundle).ok().stdout.trim().parse().expect("seconds");
    assert!(uptime < 120, "{uptime}");
}

fn annotation_chooses_the_wall(place: &Place) {
    let mut annotations = json!({"run.hull.isolation": "microvm"});
    if let Some(kernel) = &place.kernel {
        annotations["run.hull.kernel"] = json!(kernel);
    }
    let bundle = place.bundle().remove("/vm").set("/annotations", annotations).args(&[
        "cut",
        "-d.",
        "-f1",
        "/proc/uptime",
    ]);
    bundle.save();
    let output = plain(place).args(["run", "--bundle"]).arg(&bundle.dir).arg(&place.id).run();
    let uptime: u64 = output.ok().stdout.trim().parse().expect("seconds");
    assert!(uptime < 120, "{uptime}");
}

fn vm_object_chooses_the_wall(place: &Place) {
    if place.kernel.is_none() {
        place.cannot("needs HULL_TEST_KERNEL");
    }
    let bundle = place.bundle().args(&["cut", "-d.", "-f1", "/proc/uptime"]);
    bundle.save();
    let output = plain(place).args(["run", "--bundle"]).arg(&bundle.dir).arg(&place.id).run();
    let uptime: u64 = output.ok().stdout.trim().parse().expect("seconds");
    assert!(uptime < 120, "{uptime}");
}

fn size(output: &tests::Output) -> (u32, u64) {
    let lines = output.ok().lines();
    let memory = lines[1].split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("KiB") << 10;
    (lines[0].parse().expect("a number"), memory)
}

#[track_caller]
fn about(memory: u64, wanted: u64) {
    assert!(memory <= wanted && memory > wanted / 2, "{memory} of {wanted}");
}

fn annotation_sets_the_size(place: &Place) {
    let bundle = telling(place)
        .set("/annotations", json!({"run.hull.vcpus": "2", "run.hull.memory": "300M"}));
    let (cpus, memory) = size(&place.run(&bundle));
    assert_eq!(cpus, 2);
    about(memory, 300 << 20);
}

fn spec_sets_the_size(place: &Place) {
    let bundle = telling(place).set("/vm/hwConfig", json!({"vcpus": 2, "memory": 268_435_456}));
    let (cpus, memory) = size(&place.run(&bundle));
    assert_eq!(cpus, 2);
    about(memory, 256 << 20);
}

fn memory_limit_sizes_the_guest(place: &Place) {
    let bundle = telling(place).set("/linux/resources/memory", json!({"limit": 200 << 20}));
    let (cpus, memory) = size(&place.run(&bundle));
    assert_eq!(cpus, 1);
    assert!(memory >= 200 << 20, "the limit fits in: {memory}");
    assert!(memory < 480 << 20, "and not much more: {memory}");
}

fn phases_are_shown_by_debug(place: &Place) {
    let bundle = place.bundle();
    bundle.save();
    let output = Call::new(&place.dir, &place.program)
        .args(["--debug", "--root"])
        .arg(place.root())
        .args(["run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run();
    output.ok();
    assert!(output.stderr.to_lowercase().contains("kvm_run"), "{output}");
}

fn weaker_wall_is_never_taken_silently(place: &Place) {
    Call::new(&place.dir, "mount").args(["--bind", "/dev/null", "/dev/kvm"]).ok();
    let output = place.run(&place.bundle().sh("echo ran"));
    Call::new(&place.dir, "umount").arg("/dev/kvm").ok();
    output.fails().does_not_say("ran");
}

fn kernel_parameters_reach_the_guest(place: &Place) {
    if place.kernel.is_none() {
        place.cannot("needs HULL_TEST_KERNEL");
    }
    let bundle = place
        .bundle()
        .set("/vm/kernel/parameters", json!(["hull.test=mark", "quiet"]))
        .args(&["cat", "/proc/cmdline"]);
    place.run(&bundle).ok().says("hull.test=mark");
    let bundle = place
        .bundle()
        .set("/annotations", json!({"run.hull.kernel_parameters": "hull.other=mark"}))
        .args(&["cat", "/proc/cmdline"]);
    place.run(&bundle).ok().says("hull.other=mark");
}

fn initrd_of_ones_own_is_unpacked(place: &Place) {
    if place.kernel.is_none() {
        place.cannot("needs HULL_TEST_KERNEL");
    }
    // An empty archive (cpio newc) is a valid one: the agent's part follows.
    let mut archive = b"07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000B00000000TRAILER!!!\0".to_vec();
    archive.resize(archive.len().next_multiple_of(512), 0);
    let file = place.new_file("initrd", archive);
    let bundle = place.bundle().set("/vm/kernel/initrd", json!(file)).sh("echo works");
    place.run(&bundle).ok().prints("works");
}

fn it_goes_by_the_name_it_was_called_by(place: &Place) {
    place.only_hull();
    let runc = place.path("runc");
    std::os::unix::fs::symlink(&place.program, &runc).expect("a link");
    Call::new(&place.dir, &runc).arg("--version").ok().says("runc version ").says("commit: ");
    let output = Call::new(&place.dir, &runc).arg("--help").ok();
    assert_eq!(output.lines()[1].trim().split(" - ").next(), Some("runc"), "{output}");
    let failed = Call::new(&place.dir, &runc).args(["run", "-b", "/no-such-bundle", "x"]).run();
    failed.complains(&["runc run failed: "]);
}

fn list_of_a_missing_root_is_an_error(place: &Place) {
    let list = |root: &str| Call::new(&place.dir, &place.program).args(["--root", root, "list"]);
    list("/no-such-root").run().complains(&["no such file or directory"]);
}

fn pidfd_is_sent_to_a_socket(place: &Place) {
    use std::io::Read;
    let path = place.path("pidfd.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let said = || {
        let mut text = String::new();
        socket.accept().expect("a caller").0.read_to_string(&mut text).expect("its words");
        text
    };
    let bundle = place.bundle().args(&["sleep", "1000"]);
    let call = place.creating(&bundle, &place.id).arg("--pidfd-socket").arg(&path);
    let container = tests::Container::named(place, &place.id);
    call.run().ok();
    assert_eq!(said(), "pidfd");
    container.start();
    container.exec_with(&["--pidfd-socket", tests::place::str(&path)], &["true"]).ok();
    assert_eq!(said(), "pidfd");
}
