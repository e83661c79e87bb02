//! From `create` to `delete`, and what is said on the way.

use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use tests::{Bundle, Container, Place, eventually, holds_within, subject};

subject! {
    both: it_is_created_then_runs_then_stops, created_process_waits, state_has_the_specs_fields,
        pid_file_holds_the_pid, unknown_id_is_named, duplicate_id_is_refused, second_start_is_refused,
        stopped_one_is_not_started, running_one_is_not_deleted, force_deletes_a_running_one,
        force_deletes_nothing_without_complaint, created_one_can_be_killed, stopped_one_cannot_be_killed,
        list_shows_all, list_quiet_shows_ids, list_json_is_read_by_engines, bundle_is_the_working_directory_by_default,
        relative_bundle_works, annotations_are_in_the_state, options_may_follow_the_id, detached_run_returns,
        signal_names_and_numbers_are_known, unknown_signal_is_refused, paused_one_stands_still,
        paused_one_can_be_deleted_by_force, exec_in_a_paused_one_is_refused, ps_lists_its_processes,
        two_at_once_do_not_meet, id_can_be_used_again, killed_process_outside_is_noticed,
        bad_ids_are_refused, long_paths_work, delete_of_a_created_one_needs_force_or_a_kill,
        creator_may_go, states_of_others_are_not_shown, cycles_leave_nothing;
    container: kept_run_leaves_its_state, kill_all_reaches_all_without_pid_namespace,
        kill_reaches_those_who_outlived_the_first, paused_containers_cgroup_is_refused,
        zombie_counts_as_stopped, created_one_ends_by_sigterm, ps_takes_options, ps_json_is_numbers;
    microvm: monitor_is_the_callers_child_with_the_workloads_status, killed_monitor_leaves_nothing_to_delete_by_hand;
}

fn sleeper(place: &Place) -> Bundle {
    place.bundle().args(&["sleep", "1000"])
}

fn it_is_created_then_runs_then_stops(place: &Place) {
    let container =
        place.create(&place.bundle().sh("echo started; while ! test -e /go; do sleep 0.05; done"));
    assert_eq!(container.status(), "created");
    container.start();
    container.says("started");
    assert_eq!(container.status(), "running");
    fs::write(place.path("b/rootfs/go"), "").expect("the word to go");
    container.becomes("stopped");
    container.delete();
    place.call(&["state", &place.id]).complains(&["does not exist", "not found", "no such"]);
}

fn created_process_waits(place: &Place) {
    let container = place.create(&place.bundle().sh("touch /ran"));
    let ran = place.path("b/rootfs/ran");
    assert!(!holds_within(Duration::from_millis(300), || ran.exists()));
    container.start();
    eventually("it ran", || ran.exists().then_some(()));
    container.becomes("stopped");
}

fn state_has_the_specs_fields(place: &Place) {
    let bundle = sleeper(place);
    let container = place.start(&bundle);
    let state = container.state();
    assert_eq!(state["id"], json!(place.id));
    assert_eq!(state["status"], json!("running"));
    assert_eq!(state["bundle"], json!(bundle.dir));
    assert!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "{state}");
    assert!(state["pid"].as_i64().is_some_and(|pid| pid > 1), "{state}");
    container.kill("KILL");
    container.becomes("stopped");
    assert!(matches!(container.state()["pid"].as_i64(), None | Some(0)), "{}", container.state());
}

fn pid_file_holds_the_pid(place: &Place) {
    let file = place.path("pid");
    let container = Container::named(place, &place.id);
    let container = container.created_by(
        place.creating(&sleeper(place), &place.id).arg("--pid-file").arg(&file).spawn(),
    );
    let pid = fs::read_to_string(file).expect("a pid file");
    assert_eq!(pid, container.pid().to_string());
    assert!(fs::exists(format!("/proc/{pid}")).expect("looked up"));
}

fn unknown_id_is_named(place: &Place) {
    for command in ["state", "start", "delete", "pause", "resume", "ps"] {
        place.call(&[command, "no-such-one"]).complains(&[
            "does not exist",
            "not found",
            "no-such-one",
        ]);
    }
    place.call(&["kill", "no-such-one", "KILL"]).complains(&["does not exist", "no-such-one"]);
    place.call(&["exec", "no-such-one", "true"]).complains(&["does not exist", "no-such-one"]);
}

fn duplicate_id_is_refused(place: &Place) {
    let container = place.start(&sleeper(place));
    let other = place.bundle().set("/linux/cgroupsPath", json!(format!("/{}-other", place.id)));
    place.run(&other).complains(&["already exist", "in use", "exists"]);
    place.creating(&other, &place.id).run().complains(&["already exist", "in use", "exists"]);
    assert_eq!(container.status(), "running");
    container.sh("echo alive").ok().prints("alive");
}

fn second_start_is_refused(place: &Place) {
    let container = place.start(&sleeper(place));
    container.command("start").run().complains(&["cannot start", "running"]);
    assert_eq!(container.status(), "running");
}

fn stopped_one_is_not_started(place: &Place) {
    let container = place.start(&place.bundle());
    container.becomes("stopped");
    container.command("start").run().complains(&["cannot start", "stopped"]);
}

fn running_one_is_not_deleted(place: &Place) {
    let container = place.start(&sleeper(place));
    container.command("delete").run().complains(&["not stopped", "running"]);
    assert_eq!(container.status(), "running");
}

fn force_deletes_a_running_one(place: &Place) {
    let container =
        place.start(&place.bundle().sh("trap '' TERM INT; (trap '' TERM; sleep 1000)& sleep 1000"));
    let pid = container.pid();
    container.delete_force();
    place.call(&["state", &place.id]).fails();
    eventually("its process is gone", || (!fs::exists(format!("/proc/{pid}")).ok()?).then_some(()));
}

fn force_deletes_nothing_without_complaint(place: &Place) {
    place.call(&["delete", "--force", "no-such-one"]).ok();
}

fn created_one_can_be_killed(place: &Place) {
    let container = place.create(&sleeper(place));
    container.kill("KILL");
    container.becomes("stopped");
    container.delete();
}

fn stopped_one_cannot_be_killed(place: &Place) {
    let container = place.start(&place.bundle());
    container.becomes("stopped");
    place.call(&["kill", &place.id, "KILL"]).complains(&["not running", "stopped"]);
}

fn list_shows_all(place: &Place) {
    let container = place.create(&sleeper(place));
    let list = place.call(&["list"]);
    list.ok();
    let lines = list.lines();
    let head: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(head, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let row: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!((row[0], row[2], row[5]), (place.id.as_str(), "created", "root"), "{list}");
    container.start();
    place.call(&["list"]).ok().says("running");
}

fn list_quiet_shows_ids(place: &Place) {
    fs::create_dir(place.root()).expect("the root");
    place.call(&["list", "-q"]).ok().prints("");
    let _container = place.create(&sleeper(place));
    place.call(&["list", "-q"]).ok().prints(&place.id);
    place.call(&["list", "--quiet"]).ok().prints(&place.id);
}

fn list_json_is_read_by_engines(place: &Place) {
    let bundle = sleeper(place);
    let container = place.create(&bundle);
    let list = place.call(&["list", "--format", "json"]).json();
    let one = &list[0];
    assert_eq!(one["id"], json!(place.id));
    assert_eq!(one["status"], json!("created"));
    assert_eq!(one["bundle"], json!(bundle.dir));
    assert_eq!(one["pid"].as_i64(), Some(i64::from(container.pid())));
    assert_eq!(one["owner"], json!("root"));
    assert!(
        one["created"].as_str().is_some_and(|time| time.starts_with("20") && time.contains('T')),
        "{one}"
    );
    assert!(one["rootfs"].as_str().is_some_and(|path| path.ends_with("rootfs")), "{one}");
}

fn bundle_is_the_working_directory_by_default(place: &Place) {
    let bundle = place.bundle().sh("echo here");
    bundle.save();
    place.hull().args(["run", &place.id]).in_dir(&bundle.dir).run().ok().prints("here");
}

fn relative_bundle_works(place: &Place) {
    let bundle = sleeper(place);
    bundle.save();
    place.hull().args(["run", "-d", "-b", "b", &place.id]).in_dir(&place.dir).ok();
    let container = Container::named(place, &place.id);
    assert_eq!(container.state()["bundle"], json!(bundle.dir));
}

fn annotations_are_in_the_state(place: &Place) {
    let container =
        place.create(&sleeper(place).set("/annotations", json!({"org.example.a": "b c"})));
    assert_eq!(container.state()["annotations"]["org.example.a"], json!("b c"));
}

fn options_may_follow_the_id(place: &Place) {
    let bundle = sleeper(place);
    bundle.save();
    let dir = tests::place::str(&bundle.dir);
    let pid = place.path("pid");
    place.call(&["create", &place.id, "--bundle", dir, "--pid-file", tests::place::str(&pid)]).ok();
    let container = Container::named(place, &place.id);
    assert!(pid.exists());
    place.call(&["delete", &place.id, "--force"]).ok();
    place.call(&["state", &place.id]).fails();
    drop(container);
}

fn detached_run_returns(place: &Place) {
    let container = Container::named(place, &place.id);
    let container = container.created_by(place.running(&sleeper(place)).arg("--detach").spawn());
    assert_eq!(container.status(), "running");
}

fn signal_names_and_numbers_are_known(place: &Place) {
    let bundle = place.bundle().sh(
        "for s in USR1 USR2 HUP INT; do trap \"echo got $s\" $s; done; echo ready; while :; do sleep 0.05; done",
    );
    let container = place.start(&bundle);
    container.says("ready");
    for (signal, name) in [("SIGUSR1", "USR1"), ("usr2", "USR2"), ("1", "HUP"), ("INT", "INT")] {
        container.kill(signal);
        container.says(&format!("got {name}"));
    }
}

fn unknown_signal_is_refused(place: &Place) {
    let container = place.start(&sleeper(place));
    for signal in ["SIGNOTHING", "999", "-5"] {
        place.call(&["kill", &place.id, signal]).fails();
    }
    assert_eq!(container.status(), "running");
}

fn counter(place: &Place) -> Bundle {
    place.bundle().sh("i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
}

fn paused_one_stands_still(place: &Place) {
    let container = place.start(&counter(place));
    container.says("\n3\n");
    container.command("pause").ok();
    assert_eq!(container.status(), "paused");
    std::thread::sleep(Duration::from_millis(200));
    let before = container.stdout();
    assert!(
        !holds_within(Duration::from_millis(500), || container.stdout() != before),
        "it went on"
    );
    container.command("pause").run().fails();
    container.command("resume").ok();
    assert_eq!(container.status(), "running");
    eventually("it goes on", || (container.stdout() != before).then_some(()));
    container.command("resume").run().fails();
}

fn paused_one_can_be_deleted_by_force(place: &Place) {
    let container = place.start(&counter(place));
    container.command("pause").ok();
    container.delete_force();
    place.call(&["state", &place.id]).fails();
}

fn exec_in_a_paused_one_is_refused(place: &Place) {
    let container = place.start(&counter(place));
    container.command("pause").ok();
    container.exec(&["true"]).run().complains(&["paused"]);
    container.command("resume").ok();
    container.exec(&["true"]).ok();
}

fn ps_lists_its_processes(place: &Place) {
    let container = place.start(&place.bundle().sh("sleep 4321 & echo ready; wait"));
    container.says("ready");
    let list = eventually("both are listed", || {
        let list = container.command("ps").run();
        list.stdout.contains("sleep 4321").then_some(list)
    });
    list.ok().says("PID").says("CMD");
}

fn ps_takes_options(place: &Place) {
    let container = place.start(&place.bundle().args(&["sleep", "4321"]));
    let list = container.command("ps").args(["-o", "pid,comm"]).run();
    list.ok().says("COMMAND");
    assert_eq!(list.lines().len(), 2, "{list}");
    assert_eq!(
        list.lines()[1].split_whitespace().next(),
        Some(container.pid().to_string().as_str())
    );
}

fn ps_json_is_numbers(place: &Place) {
    let container = place.start(&place.bundle().sh("sleep 4321 & echo ready; wait"));
    container.says("ready");
    let pids = place.call(&["ps", "--format", "json", &place.id]).json();
    let pids: Vec<i64> =
        pids.as_array().expect("an array").iter().filter_map(Value::as_i64).collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.contains(&i64::from(container.pid())));
}

fn two_at_once_do_not_meet(place: &Place) {
    let second = format!("{}-2", place.id);
    let one = place.start(&sleeper(place).set("/hostname", json!("one")));
    let other = sleeper(place)
        .set("/hostname", json!("two"))
        .set("/linux/cgroupsPath", json!(format!("/{second}")));
    let two = place.create_as(&other, &second);
    two.start();
    for (container, name) in [(&one, "one"), (&two, "two")] {
        container.sh("hostname; ps | grep -c '[s]leep 1000'").ok().prints(&format!("{name}\n1"));
    }
    one.delete_force();
    assert_eq!(two.status(), "running");
}

fn id_can_be_used_again(place: &Place) {
    for word in ["one", "two"] {
        let container = place.start(&place.bundle().sh(&format!("echo {word}")));
        container.says(word);
        container.becomes("stopped");
        container.delete();
    }
}

fn killed_process_outside_is_noticed(place: &Place) {
    let container = place.start(&sleeper(place));
    // SAFETY: kill takes two integers; the process is the container's.
    unsafe { libc::kill(container.pid(), libc::SIGKILL) };
    container.becomes("stopped");
    container.delete();
}

fn bad_ids_are_refused(place: &Place) {
    let bundle = place.bundle();
    for id in ["", "../x", "a/b", "..", ".", "with space", "a\nb", "ü", "a;b"] {
        place.creating(&bundle, id).run().fails();
    }
    assert!(!place.path("x").exists());
}

fn long_paths_work(place: &Place) {
    let deep = place.new_dir(&format!("{}/{}", "d".repeat(120), "e".repeat(120)));
    let bundle = place.bundle_at(deep.join("bundle")).sh("echo deep; sleep 1000");
    bundle.save();
    let hull = || {
        tests::Call::new(&place.dir, &place.program)
            .arg("--root")
            .arg(deep.join("root"))
            .in_dir(&deep)
    };
    hull().args(["run", "--detach", "--bundle", "bundle", &place.id]).ok();
    let state = hull().args(["state", &place.id]).ok().json();
    assert_eq!(state["status"], json!("running"));
    hull().args(["exec", &place.id, "echo", "inside"]).ok().prints("inside");
    hull().args(["kill", &place.id, "KILL"]).ok();
    hull().args(["delete", "--force", &place.id]).ok();
    assert!(!deep.join("root").join(&place.id).exists());
}

fn delete_of_a_created_one_needs_force_or_a_kill(place: &Place) {
    let container = place.create(&sleeper(place));
    // runc takes a created one away; the specification wants it stopped first.
    let output = container.command("delete").run();
    if output.code() != 0 {
        output.complains(&["not stopped", "created"]);
        assert_eq!(container.status(), "created");
        container.delete_force();
    }
    place.call(&["state", &place.id]).fails();
}

fn creator_may_go(place: &Place) {
    let bundle = place.bundle().sh("echo one; sleep 0.3; echo two; exit 3");
    bundle.save();
    let script = place.script(
        "start",
        &format!(
            "{0} --root {1} create --bundle {2} {3} && {0} --root {1} start {3}",
            place.program.display(),
            place.root().display(),
            bundle.dir.display(),
            place.id
        ),
    );
    let container = Container::named(place, &place.id);
    let container = container.created_by(
        tests::Call::new(&place.dir, script)
            .before_exec(|| {
                // SAFETY: setsid takes nothing.
                unsafe { libc::setsid() };
                Ok(())
            })
            .spawn(),
    );
    container.says("two");
    container.becomes("stopped");
}

fn states_of_others_are_not_shown(place: &Place) {
    fs::create_dir_all(place.root().join("not-a-container")).expect("a directory of another");
    fs::write(place.root().join("a-file"), "x").expect("a file of another");
    let container = place.create(&sleeper(place));
    place.call(&["list", "-q"]).ok().prints(&place.id);
    drop(container);
    assert!(place.root().join("a-file").exists());
}

fn cycles_leave_nothing(place: &Place) {
    let times = if place.is_vm() { 3 } else { 20 };
    let bundle = place.bundle().sh("sleep 1000 & wait");
    for _ in 0..times {
        place.start(&bundle).delete_force();
    }
}

fn kept_run_leaves_its_state(place: &Place) {
    place.running(&place.bundle().sh("exit 2")).arg("--keep").run().exits(2);
    let container = Container::named(place, &place.id);
    assert_eq!(container.status(), "stopped");
    container.delete();
}

fn kill_all_reaches_all_without_pid_namespace(place: &Place) {
    let bundle =
        place.bundle().without_namespace("pid").sh("sleep 1000 & sleep 1000 & echo ready; wait");
    let container = place.start(&bundle);
    container.says("ready");
    place.call(&["kill", "--all", &place.id, "KILL"]).ok();
    container.becomes("stopped");
    eventually("all are gone", || tests::leftovers::processes().is_empty().then_some(()));
}

fn kill_reaches_those_who_outlived_the_first(place: &Place) {
    let bundle = place.bundle().without_namespace("pid").sh("sleep 1000 & echo ready");
    let container = place.start(&bundle);
    container.says("ready");
    container.becomes("stopped");
    place.call(&["kill", &place.id, "TERM"]).complains(&["not running"]);
    place.call(&["kill", &place.id, "KILL"]).ok();
    eventually("all are gone", || tests::leftovers::processes().is_empty().then_some(()));
    place.call(&["kill", &place.id, "KILL"]).complains(&["not running"]);
    container.delete();
}

fn paused_containers_cgroup_is_refused(place: &Place) {
    let first = place.start(&place.bundle().sh("echo ready; sleep 1000"));
    first.says("ready");
    place.call(&["pause", &place.id]).ok();
    let second = format!("{}-2", place.id);
    let bundle = place.bundle().set("/linux/cgroupsPath", json!(format!("/{}", place.id)));
    place.creating(&bundle, &second).run().complains(&["not empty"]);
    place.call(&["resume", &place.id]).ok();
    first.delete_force();
}

fn zombie_counts_as_stopped(place: &Place) {
    // Nobody here waits for orphans now.
    place.inherit_orphans();
    let container = place.start(&place.bundle());
    container.becomes("stopped");
    container.delete();
    // SAFETY: reaps one child, without a place for its status.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
}

fn monitor_is_the_callers_child_with_the_workloads_status(place: &Place) {
    place.inherit_orphans();
    let container = place.create(&place.bundle().sh("exit 42"));
    let pid = container.pid();
    container.start();
    let mut status = 0;
    eventually("the monitor ends", || {
        // SAFETY: waitpid writes one integer.
        (unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == pid).then_some(())
    });
    assert!(libc::WIFEXITED(status), "{status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 42);
    assert_eq!(container.status(), "stopped");
}

fn killed_monitor_leaves_nothing_to_delete_by_hand(place: &Place) {
    let container = place.start(&sleeper(place));
    // SAFETY: kill takes two integers; the process is the container's.
    unsafe { libc::kill(container.pid(), libc::SIGKILL) };
    container.becomes("stopped");
    container.exec(&["true"]).run().fails();
    container.delete();
}

fn created_one_ends_by_sigterm(place: &Place) {
    place.only_hull();
    let container = place.create(&sleeper(place));
    container.kill("TERM");
    container.becomes("stopped");
}
