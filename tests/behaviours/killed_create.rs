//! `create` killed at any moment leaves nothing that `delete --force` does not
//! take away, and no process, mount or control group even without it.

use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};
use tests::{Bundle, Call, Place, cgroup, leftovers, subject, wait::within};

subject! {
    both: killed_at_any_time_leaves_nothing, terminated_at_any_time_leaves_nothing, killed_run_can_be_deleted_by_force,
        id_is_free_after_a_killed_create, interrupted_by_its_console_leaves_nothing;
    container: killed_at_any_system_call_leaves_nothing, cgroup_is_free_after_a_killed_create;
    microvm: killed_with_its_process_group_leaves_nothing, killed_caller_does_not_end_a_created_one;
}

fn bundle(place: &Place) -> Bundle {
    place.bundle().args(&["sleep", "1000"])
}

/// After `create` was killed: what an engine does next, and what may be left.
fn cleaned(place: &Place, moment: &str) {
    place.call(&["delete", "--force", &place.id]).ok();
    let nothing = || {
        leftovers::processes().is_empty()
            && cgroup::named(&place.id).is_empty()
            && leftovers::states(place).is_empty()
    };
    if within(Duration::from_secs(30), || nothing().then_some(())).is_none() {
        let processes: Vec<String> =
            leftovers::processes().into_iter().map(leftovers::describe).collect();
        panic!(
            "killed {moment}, after delete --force left: processes {processes:#?}, cgroups {:?}, states {:?}",
            cgroup::named(&place.id),
            leftovers::states(place)
        );
    }
}

fn at_many_times(place: &Place, signal: i32) {
    place.only_hull();
    let bundle = bundle(place);
    // How long one takes here and now, to spread the moments over it.
    let began = Instant::now();
    place.create(&bundle).delete_force();
    let whole = began.elapsed().max(Duration::from_millis(4));
    let times = if place.is_vm() { 14 } else { 40 };
    for number in 0..times {
        let moment = whole * number / times;
        let running = place.creating(&bundle, &place.id).spawn();
        std::thread::sleep(moment);
        // SAFETY: kill takes two integers; the child is not reaped yet.
        unsafe { libc::kill(running.pid(), signal) };
        let _ = running.wait();
        cleaned(place, &format!("by {signal} after {moment:?}"));
    }
}

fn killed_at_any_time_leaves_nothing(place: &Place) {
    at_many_times(place, libc::SIGKILL);
}

fn terminated_at_any_time_leaves_nothing(place: &Place) {
    at_many_times(place, libc::SIGTERM);
}

fn interrupted_by_its_console_leaves_nothing(place: &Place) {
    at_many_times(place, libc::SIGINT);
}

fn killed_at_any_system_call_leaves_nothing(place: &Place) {
    place.only_hull();
    let strace = place.needs("strace");
    let bundle = bundle(place);
    bundle.save();
    for call in [
        "mkdir,mkdirat",
        "write",
        "clone,clone3,fork,vfork",
        "openat,openat2",
        "rename,renameat,renameat2",
        "socketpair,pipe2",
        "read",
    ] {
        for when in [1, 2, 3, 5, 8, 13, 21] {
            let output = Call::new(&place.dir, &strace)
                .args(["-qq", "-o", "/dev/null", "-e", "signal=none"])
                .args([
                    "-e",
                    &format!("trace={call}"),
                    "-e",
                    &format!("inject={call}:signal=KILL:when={when}"),
                ])
                .arg(&place.program)
                .arg("--root")
                .arg(place.root())
                .args(["create", "--bundle"])
                .arg(&bundle.dir)
                .arg(&place.id)
                .run();
            cleaned(place, &format!("at {call} number {when} (status {})", output.code()));
            if output.code() == 0 {
                break; // It makes no more of these calls.
            }
        }
    }
}

fn killed_run_can_be_deleted_by_force(place: &Place) {
    let mut running = place.running(&place.bundle().sh("echo ready; sleep 1000")).spawn();
    running.says("ready");
    running.signal(libc::SIGKILL);
    let _ = running.wait();
    cleaned(place, "while it ran in the foreground");
}

fn id_is_free_after_a_killed_create(place: &Place) {
    let bundle = bundle(place);
    for millis in [1, 3, 6, 10, 20, 40] {
        let running = place.creating(&bundle, &place.id).spawn();
        std::thread::sleep(Duration::from_millis(millis));
        // SAFETY: kill takes two integers; the child is not reaped yet.
        unsafe { libc::kill(running.pid(), libc::SIGKILL) };
        let _ = running.wait();
        place.call(&["delete", "--force", &place.id]).ok();
        place.run(&place.bundle().sh("exit 3")).exits(3);
    }
}

fn cgroup_is_free_after_a_killed_create(place: &Place) {
    let shared = |bundle: Bundle| {
        bundle.set("/linux/cgroupsPath", json!(format!("/{}/one-for-all", place.id)))
    };
    for number in 0..24 {
        let id = format!("{}-{number}", place.id);
        let running = place.creating(&shared(bundle(place)), &id).spawn();
        std::thread::sleep(Duration::from_millis(number));
        // SAFETY: kill takes two integers; the child is not reaped yet.
        unsafe { libc::kill(running.pid(), libc::SIGKILL) };
        let _ = running.wait();
        place.call(&["delete", "--force", &id]).ok();
        place.run(&shared(place.bundle()).sh("exit 3")).exits(3);
    }
}

fn killed_with_its_process_group_leaves_nothing(place: &Place) {
    let bundle = bundle(place);
    for millis in [5, 50, 200, 500, 900] {
        let running = place
            .creating(&bundle, &place.id)
            .before_exec(|| {
                // SAFETY: setpgid with zeroes: its own group.
                unsafe { libc::setpgid(0, 0) };
                Ok(())
            })
            .spawn();
        std::thread::sleep(Duration::from_millis(millis));
        // SAFETY: kill takes two integers; the group's leader is not reaped yet.
        unsafe { libc::kill(-running.pid(), libc::SIGKILL) };
        let _ = running.wait();
        cleaned(place, &format!("with its group after {millis} ms"));
    }
}

fn killed_caller_does_not_end_a_created_one(place: &Place) {
    let bundle = bundle(place);
    bundle.save();
    let script = place.script(
        "caller",
        &format!(
            "{} --root {} create --bundle {} {} && echo made && exec sleep 1000",
            place.program.display(),
            place.root().display(),
            bundle.dir.display(),
            place.id
        ),
    );
    let mut caller = Call::new(&place.dir, script).spawn();
    caller.says("made");
    caller.signal(libc::SIGKILL);
    let _ = caller.wait();
    let container = tests::Container::named(place, &place.id);
    assert_eq!(container.status(), "created");
    container.start();
    container.sh("echo alive").ok().prints("alive");
    assert!(fs::exists(container.state_dir()).expect("looked up"));
}
