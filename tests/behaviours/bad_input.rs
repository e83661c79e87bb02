//! What is wrong is refused by name, and nothing is left of the attempt.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use tests::{Bundle, Call, Place, subject};

subject! {
    both: broken_json_is_refused, empty_config_is_refused, wrong_version_is_named, missing_config_is_named,
        missing_bundle_is_named, missing_root_is_named, root_that_is_a_file_is_refused, missing_process_is_refused,
        empty_arguments_are_refused, relative_working_directory_is_refused, wrong_type_names_the_field,
        huge_config_is_survived, deep_config_is_refused, unknown_field_is_no_obstacle, zero_bytes_are_refused,
        number_out_of_range_is_refused, config_that_is_a_directory_is_refused, other_systems_config_is_refused,
        unknown_namespace_is_named, unknown_rlimit_is_named, duplicate_rlimit_is_refused, invalid_utf8_is_refused,
        missing_arguments_show_the_usage, unknown_option_is_refused, unknown_command_is_refused,
        root_directory_that_cannot_be_made_is_named, environment_without_equals_sign_does_not_crash,
        negative_values_do_not_crash, unwritable_pid_file_leaves_nothing;
    container: every_field_cut_off_is_survived, config_pipe_does_not_hang;
    microvm: kernel_that_is_no_kernel_is_named, missing_kernel_is_named, cut_off_kernel_is_refused,
        too_little_memory_is_refused, too_many_cpus_are_refused, no_cpus_are_refused, missing_kvm_is_named,
        kvm_that_is_no_kvm_is_named, broken_kernel_parameters_do_not_hang, missing_initrd_is_named,
        bad_annotation_is_named, kernel_of_another_machine_is_refused, more_memory_than_the_host_has_is_survived,
        kernel_that_panics_shows_its_console;
}

/// The bundle is refused by `run` and by `create`.
fn refused(place: &Place, bundle: &Bundle, words: &[&str]) {
    place.run(bundle).complains(words);
    place.creating(bundle, &place.id).run().complains(words);
    place.call(&["state", &place.id]).fails();
}

fn refused_text(place: &Place, text: &[u8], words: &[&str]) {
    let bundle = place.bundle();
    fs::write(bundle.dir.join("config.json"), text).expect("a config");
    for command in ["run", "create"] {
        let output = place.hull().args([command, "--bundle"]).arg(&bundle.dir).arg(&place.id).run();
        if words.is_empty() {
            output.fails();
        } else {
            output.complains(words);
        }
    }
}

fn broken_json_is_refused(place: &Place) {
    for text in ["{", "[]", "\"text\"", "{\"ociVersion\": \"1.0.2\",}", "{} x", "nonsense"] {
        refused_text(place, text.as_bytes(), &[]);
    }
}

fn empty_config_is_refused(place: &Place) {
    refused_text(place, b"", &[]);
    refused_text(place, b"{}", &[]);
    refused_text(place, b"null", &[]);
}

fn zero_bytes_are_refused(place: &Place) {
    refused_text(place, &[0; 4096], &[]);
}

fn invalid_utf8_is_refused(place: &Place) {
    refused_text(place, b"{\"ociVersion\": \"\xff\xfe\"}", &[]);
}

fn wrong_version_is_named(place: &Place) {
    place.only_hull();
    for version in ["0.1.0", "2.0.0", "one", ""] {
        refused(place, &place.bundle().set("/ociVersion", json!(version)), &["version"]);
    }
}

fn missing_config_is_named(place: &Place) {
    let dir = place.new_dir("empty");
    place
        .hull()
        .args(["run", "--bundle"])
        .arg(&dir)
        .arg(&place.id)
        .run()
        .complains(&["config.json"]);
}

fn missing_bundle_is_named(place: &Place) {
    place.call(&["run", "--bundle", "/no/such/bundle", &place.id]).complains(&["/no/such/bundle"]);
}

fn missing_root_is_named(place: &Place) {
    refused(place, &place.bundle().set("/root/path", json!("nowhere")), &["nowhere"]);
    if place.is_hull() {
        refused(place, &place.bundle().remove("/root"), &["root"]);
    }
}

fn root_that_is_a_file_is_refused(place: &Place) {
    let bundle = place.bundle().set("/root/path", json!("a-file"));
    fs::write(bundle.dir.join("a-file"), "text").expect("a file");
    refused(place, &bundle, &["a-file", "not a directory"]);
}

fn missing_process_is_refused(place: &Place) {
    place.only_hull();
    refused(place, &place.bundle().remove("/process"), &["process"]);
}

fn empty_arguments_are_refused(place: &Place) {
    refused(place, &place.bundle().set("/process/args", json!([])), &["args"]);
    refused(place, &place.bundle().remove("/process/args"), &["args"]);
}

fn relative_working_directory_is_refused(place: &Place) {
    refused(place, &place.bundle().set("/process/cwd", json!("tmp")), &["cwd"]);
}

fn wrong_type_names_the_field(place: &Place) {
    place.only_hull();
    for (pointer, value, word) in [
        ("/process/args", json!("true"), "process.args"),
        ("/process/user/uid", json!("root"), "process.user.uid"),
        ("/linux/namespaces", json!({}), "linux.namespaces"),
        ("/mounts/0/destination", json!(7), "mounts[0].destination"),
    ] {
        refused(place, &place.bundle().set(pointer, value), &[word]);
    }
}

fn huge_config_is_survived(place: &Place) {
    let annotations: Value = (0..20_000)
        .map(|n| (format!("key{n}"), json!("x".repeat(100))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let output = place.run(&place.bundle().set("/annotations", annotations).sh("echo alive"));
    if output.code() != 0 {
        output.fails();
    }
    let endless = format!(
        "{{\"ociVersion\": \"1.0.2\", \"annotations\": {{\"a\": \"{}\"}}}}",
        "x".repeat(64 << 20)
    );
    refused_text(place, endless.as_bytes(), &[]);
}

fn deep_config_is_refused(place: &Place) {
    for depth in [200, 100_000] {
        let text = format!(
            "{{\"ociVersion\": \"1.0.2\", \"x\": {}{}}}",
            "[".repeat(depth),
            "]".repeat(depth)
        );
        refused_text(place, text.as_bytes(), &[]);
    }
}

fn unknown_field_is_no_obstacle(place: &Place) {
    // "Runtimes MUST NOT generate an error on unknown properties" (config.md).
    let bundle = place.bundle().set("/org.example.unknown", json!({"a": [1, 2]})).sh("echo alive");
    place.run(&bundle).ok().prints("alive");
}

fn number_out_of_range_is_refused(place: &Place) {
    refused(
        place,
        &place.bundle().set("/process/user/uid", json!(5_000_000_000u64)),
        &["uid", "number", "range", "invalid", "uint32"],
    );
    refused(
        place,
        &place.bundle().set("/process/user/uid", json!(-1)),
        &["uid", "number", "invalid", "uint32"],
    );
}

fn negative_values_do_not_crash(place: &Place) {
    for (pointer, value) in [
        ("/process/oomScoreAdj", json!(100_000)),
        ("/linux/resources/pids", json!({"limit": -5})),
        ("/linux/resources/memory", json!({"limit": -7})),
        ("/linux/resources/cpu", json!({"quota": -100, "period": 0})),
        ("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 5}])),
    ] {
        let output = place.run(&place.bundle().set(pointer, value));
        if output.code() != 0 {
            output.fails();
        }
    }
}

fn config_that_is_a_directory_is_refused(place: &Place) {
    let bundle = place.bundle();
    fs::create_dir(bundle.dir.join("config.json")).expect("a directory");
    place.hull().args(["run", "--bundle"]).arg(&bundle.dir).arg(&place.id).run().fails();
}

fn other_systems_config_is_refused(place: &Place) {
    place.only_hull();
    let mut bundle = place.bundle().remove("/linux");
    bundle.config["windows"] = json!({"layerFolders": ["c:\\layer"]});
    refused(place, &bundle, &["windows", "linux"]);
}

fn unknown_namespace_is_named(place: &Place) {
    refused(
        place,
        &place.bundle().push("/linux/namespaces", json!({"type": "dreams"})),
        &["dreams"],
    );
}

fn unknown_rlimit_is_named(place: &Place) {
    refused(
        place,
        &place
            .bundle()
            .set("/process/rlimits", json!([{"type": "RLIMIT_DREAMS", "soft": 1, "hard": 1}])),
        &["RLIMIT_DREAMS"],
    );
}

fn duplicate_rlimit_is_refused(place: &Place) {
    place.only_hull();
    let one = json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100});
    refused(
        place,
        &place.bundle().set("/process/rlimits", json!([one, one])),
        &["RLIMIT_NOFILE", "rlimits"],
    );
}

fn missing_arguments_show_the_usage(place: &Place) {
    for command in ["create", "run", "start", "state", "kill", "delete", "exec"] {
        let output = place.call(&[command]);
        output.fails();
        assert!(!output.stderr.is_empty() || !output.stdout.is_empty(), "{output}");
    }
}

fn unknown_option_is_refused(place: &Place) {
    place.call(&["run", "--no-such-option", &place.id]).fails();
    Call::new(&place.dir, &place.program).args(["--no-such-option", "list"]).run().fails();
}

fn unknown_command_is_refused(place: &Place) {
    place.call(&["frobnicate"]).fails();
}

fn root_directory_that_cannot_be_made_is_named(place: &Place) {
    let file = place.new_file("in-the-way", "");
    let bundle = place.bundle();
    bundle.save();
    Call::new(&place.dir, &place.program)
        .arg("--root")
        .arg(file.join("root"))
        .args(["run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .run()
        .complains(&["in-the-way", "not a directory"]);
}

fn environment_without_equals_sign_does_not_crash(place: &Place) {
    let output = place.run(&place.bundle().env("JUSTANAME").env("=value").sh("echo alive"));
    if output.code() != 0 {
        output.fails();
    }
}

fn unwritable_pid_file_leaves_nothing(place: &Place) {
    place
        .creating(&place.bundle(), &place.id)
        .args(["--pid-file", "/no/such/dir/pid"])
        .run()
        .fails();
    place.call(&["state", &place.id]).fails();
}

fn every_field_cut_off_is_survived(place: &Place) {
    let bundle = place.bundle();
    bundle.save();
    let text = fs::read(bundle.dir.join("config.json")).expect("the config");
    for length in (0..text.len()).step_by(text.len() / 40) {
        fs::write(bundle.dir.join("config.json"), &text[..length]).expect("a config");
        place.hull().args(["create", "--bundle"]).arg(&bundle.dir).arg(&place.id).run().fails();
    }
}

fn config_pipe_does_not_hang(place: &Place) {
    place.only_hull();
    let bundle = place.bundle();
    Call::new(&place.dir, "mkfifo").arg(bundle.dir.join("config.json")).ok();
    place.hull().args(["create", "--bundle"]).arg(&bundle.dir).arg(&place.id).run().fails();
}

fn kernel(place: &Place, value: Value) -> Bundle {
    place.bundle().set("/vm/kernel", value)
}

/// The kernel given for tests, or the reason that none is.
fn test_kernel(place: &Place) -> Vec<u8> {
    match &place.kernel {
        Some(path) => fs::read(path).expect("the kernel"),
        None => place.cannot("needs HULL_TEST_KERNEL"),
    }
}

fn kernel_that_is_no_kernel_is_named(place: &Place) {
    for content in [&b"no kernel\n"[..], b"", b"\x7fELF", &[0; 100_000], b"#!/bin/sh\n"] {
        let file = place.new_file("odd-kernel", content);
        refused(place, &kernel(place, json!({"path": file})), &["odd-kernel"]);
    }
}

fn missing_kernel_is_named(place: &Place) {
    refused(place, &kernel(place, json!({"path": "/no/such/vmlinux"})), &["/no/such/vmlinux"]);
    refused(place, &kernel(place, json!({"path": "/tmp"})), &["/tmp"]);
}

fn cut_off_kernel_is_refused(place: &Place) {
    let whole = test_kernel(place);
    for length in [64, 4096, whole.len() / 2] {
        let file = place.new_file("cut-kernel", &whole[..length]);
        refused(place, &kernel(place, json!({"path": file})), &["cut-kernel"]);
    }
}

fn kernel_of_another_machine_is_refused(place: &Place) {
    let mut bytes = test_kernel(place);
    bytes[18] = 183; // e_machine: AArch64 (elf(5)).
    let file = place.new_file("arm-kernel", &bytes);
    refused(place, &kernel(place, json!({"path": file})), &["arm-kernel"]);
    bytes[18] = 62;
    bytes[4] = 1; // EI_CLASS: 32 bits.
    let file = place.new_file("small-kernel", &bytes);
    refused(place, &kernel(place, json!({"path": file})), &["small-kernel"]);
}

fn too_little_memory_is_refused(place: &Place) {
    // vm.hwConfig.memory is in bytes (config-vm.md).
    for bytes in [0u64, 4096, 8 << 20] {
        refused(place, &place.bundle().set("/vm/hwConfig/memory", json!(bytes)), &["memory"]);
    }
}

fn more_memory_than_the_host_has_is_survived(place: &Place) {
    let output = place.run(&place.bundle().set("/vm/hwConfig/memory", json!(1u64 << 60)));
    output.complains(&["memory"]);
}

fn too_many_cpus_are_refused(place: &Place) {
    refused(place, &place.bundle().set("/vm/hwConfig/vcpus", json!(33)), &["vcpus", "cpu"]);
    refused(place, &place.bundle().set("/vm/hwConfig/vcpus", json!(100_000)), &["vcpus", "cpu"]);
}

fn no_cpus_are_refused(place: &Place) {
    refused(place, &place.bundle().set("/vm/hwConfig/vcpus", json!(0)), &["vcpus", "cpu"]);
}

fn missing_initrd_is_named(place: &Place) {
    let mut bundle = place.bundle();
    bundle.config["vm"]["kernel"]["initrd"] = json!("/no/such/initrd");
    if place.kernel.is_none() {
        bundle.config["vm"]["kernel"]["path"] = json!("/no/such/vmlinux");
        refused(place, &bundle, &["/no/such/"]);
    } else {
        refused(place, &bundle, &["/no/such/initrd"]);
    }
}

fn bad_annotation_is_named(place: &Place) {
    for (name, value) in
        [("run.hull.vcpus", "many"), ("run.hull.memory", "-1"), ("run.hull.isolation", "paper")]
    {
        refused(place, &place.bundle().set("/annotations", json!({ name: value })), &[name]);
    }
}

/// A /dev with all that is needed but kvm, in this behaviour's own mounts.
fn hide_kvm(place: &Place) {
    let dev = place.new_dir("dev");
    Call::new(&place.dir, "mount").args(["-t", "tmpfs", "none"]).arg(&dev).ok();
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        fs::write(dev.join(name), "").expect("a file to mount on");
        Call::new(&place.dir, "mount")
            .arg("--bind")
            .arg(format!("/dev/{name}"))
            .arg(dev.join(name))
            .ok();
    }
    for name in ["pts", "shm"] {
        fs::create_dir(dev.join(name)).expect("a directory");
        Call::new(&place.dir, "mount")
            .arg("--bind")
            .arg(format!("/dev/{name}"))
            .arg(dev.join(name))
            .ok();
    }
    symlink("/dev/pts/ptmx", dev.join("ptmx")).expect("a link");
    symlink("/proc/self/fd", dev.join("fd")).expect("a link");
    Call::new(&place.dir, "mount").arg("--rbind").arg(&dev).arg("/dev").ok();
}

fn show_kvm(place: &Place) {
    Call::new(&place.dir, "umount").args(["-R", "-l", "/dev"]).ok();
    Call::new(&place.dir, "umount").args(["-R", "-l"]).arg(place.path("dev")).ok();
}

fn missing_kvm_is_named(place: &Place) {
    hide_kvm(place);
    assert!(!fs::exists("/dev/kvm").expect("looked up"));
    let output = place.run(&place.bundle());
    show_kvm(place);
    output.complains(&["/dev/kvm"]);
}

fn kvm_that_is_no_kvm_is_named(place: &Place) {
    Call::new(&place.dir, "mount").args(["--bind", "/dev/null", "/dev/kvm"]).ok();
    let output = place.run(&place.bundle());
    Call::new(&place.dir, "umount").arg("/dev/kvm").ok();
    output.complains(&["/dev/kvm"]);
}

fn broken_kernel_parameters_do_not_hang(place: &Place) {
    let mut bundle = place.bundle();
    bundle.config["vm"]["kernel"]["path"] = json!(place.kernel);
    if place.kernel.is_none() {
        place.cannot("needs HULL_TEST_KERNEL");
    }
    bundle.config["vm"]["kernel"]["parameters"] = json!(["x".repeat(100_000)]);
    refused(place, &bundle, &["parameters", "command line"]);
}

fn kernel_that_panics_shows_its_console(place: &Place) {
    if place.kernel.is_none() {
        place.cannot("needs HULL_TEST_KERNEL");
    }
    let mut bundle = place.bundle();
    // Another first program than the agent: the kernel finds none and panics.
    bundle.config["vm"]["kernel"]["parameters"] = json!(["rdinit=/no/such/init", "panic=-1"]);
    let output = place.run(&bundle);
    output.complains(&["panic", "rdinit", "agent", "init"]);
}
