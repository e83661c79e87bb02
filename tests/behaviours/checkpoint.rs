//! Checkpoint and restore: saved, gone, back where it was.

use serde_json::json;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::{Bundle, Call, Container, Place, eventually, subject, terminal};

subject! {
    container: it_goes_on_where_it_was_saved, it_may_run_on, memory_may_be_saved_before,
        a_stopped_one_cannot_be_saved, images_must_be_there,
        resctrl_is_needed_to_be_restored_into_a_group, connections_stay_when_asked,
        file_locks_stay_when_asked, sockets_of_the_outside_stay_when_asked,
        terminal_comes_over_the_console_socket, terminal_of_a_shell_job_is_the_callers,
        pages_may_go_to_a_page_server, pages_may_follow_when_they_are_needed,
        a_lasting_checkpoint_does_not_hold_up_delete, network_may_be_left_empty,
        cgroups_are_treated_as_asked, restore_in_the_foreground_passes_the_status_on,
        one_that_tells_its_readiness_can_be_saved, unlinked_files_are_kept_when_asked;
    microvm: a_microvm_cannot_be_saved_by_criu;
}

/// CRIU in an emulated machine.
const LONG: Duration = Duration::from_secs(120);

/// CRIU must know the kernel: Debian's does where the lab runs.
fn needs_criu(place: &Place) {
    place.only_hull();
    place.needs("criu");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    if !release.starts_with("6.1.") {
        place.cannot("Debian's criu knows Debian's kernel 6.1, not the vDSO of much newer ones");
    }
}

/// Counts into a file. Its streams are the container's own: files of the outside cannot be saved.
fn counter(place: &Place) -> Bundle {
    let script = "exec </dev/null >/dev/null 2>&1; i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.1; done";
    place.bundle().dir("tmp").sh(script)
}

fn count(bundle: &Bundle) -> u64 {
    let read = || fs::read_to_string(bundle.rootfs().join("tmp/count")).ok()?.trim().parse().ok();
    eventually("it has counted", read)
}

fn runs_on(bundle: &Bundle) {
    let before = count(bundle);
    eventually("it counts on", || (count(bundle) > before).then_some(()));
}

fn saving(place: &Place, options: &[&str], images: &Path) -> Call {
    let call = place.hull().arg("checkpoint").args(options).arg("--image-path").arg(images);
    call.arg(&place.id).patience(LONG)
}

fn save(place: &Place, options: &[&str], images: &Path) {
    saving(place, options, images).ok();
}

/// Saves it, which needs `option`: without it CRIU refuses, and the container goes on.
fn save_only_with(place: &Place, option: &str) -> PathBuf {
    saving(place, &[], &place.path("refused")).run().complains(&["criu failed to dump"]);
    assert_eq!(place.call(&["state", &place.id]).ok().json()["status"], "running");
    let images = place.path("images");
    save(place, &[option], &images);
    images
}

fn restoring(place: &Place, bundle: &Bundle, options: &[&str], images: &Path) -> Call {
    let call = place.hull().arg("restore").args(options).arg("--image-path").arg(images);
    call.arg("--bundle").arg(&bundle.dir).arg(&place.id).patience(LONG)
}

#[must_use = "dropped, it is deleted"]
fn restore<'a>(
    place: &'a Place,
    bundle: &Bundle,
    options: &[&str],
    images: &Path,
) -> Container<'a> {
    restoring(place, bundle, options, images).arg("--detach").ok();
    let again = Container::named(place, &place.id);
    again.becomes("running");
    again
}

fn it_goes_on_where_it_was_saved(place: &Place) {
    needs_criu(place);
    let bind = place.new_dir("bind");
    let bundle = counter(place).bind(&bind, "/mnt", &[]).bind(&bind, "/mnt/for/nested", &[]);
    let container = place.start(&bundle);
    runs_on(&bundle);
    let (images, work) = (place.path("images"), place.path("work"));
    save(place, &["--work-path", tests::place::str(&work)], &images);
    assert!(work.join("dump.log").exists() && !images.join("dump.log").exists());
    container.command("state").run().complains(&["does not exist"]);
    let saved = count(&bundle);
    fs::remove_dir_all(bind.join("for")).expect("a mount point in a bind");
    let pid_file = place.path("pid");
    let options = ["--pid-file", tests::place::str(&pid_file)];
    let again = restore(place, &bundle, &options, &images);
    runs_on(&bundle);
    let now = count(&bundle);
    assert!(now > saved && now < saved + 1000, "{saved} when saved, {now} now");
    let told = fs::read_to_string(pid_file).expect("a pid file");
    assert_eq!(told.trim(), again.pid().to_string());
    // What is executed then is saved with it the next time.
    again.sh("sleep 1000 </dev/null >/dev/null 2>&1 &").ok();
    let images = place.path("images2");
    save(place, &[], &images);
    let again = restore(place, &bundle, &[], &images);
    again.sh("pidof sleep && runs=$(ps | grep -c '[s]leep 1000'); test $runs = 1").ok();
    runs_on(&bundle);
    again.delete_force();
}

fn it_may_run_on(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let container = place.start(&bundle);
    runs_on(&bundle);
    save(place, &["--leave-running"], &place.path("images"));
    assert_eq!(container.status(), "running");
    runs_on(&bundle);
}

fn memory_may_be_saved_before(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let container = place.start(&bundle);
    runs_on(&bundle);
    save(place, &["--pre-dump"], &place.path("before"));
    runs_on(&bundle);
    let images = place.path("images");
    save(place, &["--parent-path", "../before", "--auto-dedup"], &images);
    container.command("state").run().complains(&["does not exist"]);
    let _again = restore(place, &bundle, &["--auto-dedup"], &images);
    runs_on(&bundle);
}

/// Two ends in one container, which write to each other all the time.
fn connections_stay_when_asked(place: &Place) {
    needs_criu(place);
    place.needs("iptables-restore");
    let script = "exec </dev/null >/dev/null 2>&1; nc -l -p 7777 -e cat & sleep 1
        { while :; do i=$((i+1)); echo $i; sleep 0.1; done; } | nc 127.0.0.1 7777 |
        while read i; do echo $i >/tmp/count; done";
    let bundle = place.bundle().dir("tmp").sh(script);
    let container = place.start(&bundle);
    runs_on(&bundle);
    let images = save_only_with(place, "--tcp-established");
    container.command("state").run().complains(&["does not exist"]);
    let saved = count(&bundle);
    let _again = restore(place, &bundle, &["--tcp-established"], &images);
    runs_on(&bundle);
    assert!(count(&bundle) < saved + 1000);
}

fn file_locks_stay_when_asked(place: &Place) {
    needs_criu(place);
    let script = "exec </dev/null >/dev/null 2>&1; exec inside inside lock /tmp/lock 1000";
    let bundle = place.bundle().helper(0o755).sh(script);
    let held = |container: &Container| {
        let said = container.sh("inside inside lock /tmp/lock 0").stdout;
        said.contains(&format!("error {}", libc::EWOULDBLOCK))
    };
    let container = place.start(&bundle);
    eventually("it is locked", || held(&container).then_some(()));
    let images = save_only_with(place, "--file-locks");
    let again = restore(place, &bundle, &["--file-locks"], &images);
    assert!(held(&again), "the lock is lost");
}

fn sockets_of_the_outside_stay_when_asked(place: &Place) {
    needs_criu(place);
    let dir = place.new_dir("outside");
    let socket = UnixDatagram::bind(dir.join("socket")).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let hears = || {
        socket.set_nonblocking(true).expect("not blocking");
        while socket.recv(&mut [0; 16]).is_ok() {}
        socket.set_nonblocking(false).expect("blocking");
        socket.recv(&mut [0; 16]).expect("a word from inside");
    };
    let inside = tests::place::str(&dir);
    let tell = format!("exec inside inside keep-telling {inside}/socket");
    // CRIU finds the other end in the same network and by the same name only.
    let bundle = place.bundle().helper(0o755).without_namespace("network");
    let bundle =
        bundle.bind(&dir, inside, &["rw"]).sh(&format!("exec </dev/null >/dev/null 2>&1; {tell}"));
    let _container = place.start(&bundle);
    hears();
    let images = save_only_with(place, "--ext-unix-sk");
    let _again = restore(place, &bundle, &["--ext-unix-sk"], &images);
    hears();
}

/// A shell at a terminal.
fn at_a_terminal(place: &Place) -> Bundle {
    place.bundle().sh("while read line; do echo \"<$line>\"; done")
}

fn terminal_comes_over_the_console_socket(place: &Place) {
    needs_criu(place);
    let bundle = at_a_terminal(place).set("/process/terminal", json!(true));
    let first = terminal::ConsoleSocket::new(place.path("first.sock"));
    place.creating(&bundle, &place.id).arg("--console-socket").arg(&first.path).ok();
    let mut terminal = first.receive();
    let container = Container::named(place, &place.id);
    container.start();
    terminal.types("one\n");
    terminal.shows("<one>");
    let images = place.path("images");
    save(place, &[], &images);
    terminal.ends();
    let second = terminal::ConsoleSocket::new(place.path("second.sock"));
    let options = ["--console-socket", tests::place::str(&second.path)];
    let _again = restore(place, &bundle, &options, &images);
    let mut terminal = second.receive();
    terminal.types("two\n");
    terminal.shows("<two>");
}

fn terminal_of_a_shell_job_is_the_callers(place: &Place) {
    needs_criu(place);
    let bundle = at_a_terminal(place).set("/process/terminal", json!(true));
    let at = |call: Call, inside: OwnedFd| {
        call.stdin(inside.try_clone().expect("a second end")).stdout(inside).spawn()
    };
    let (mut terminal, inside) = terminal::open();
    let first = at(place.running(&bundle), inside);
    terminal.types("one\n");
    terminal.shows("<one>");
    let images = place.path("images");
    save(place, &["--shell-job"], &images);
    first.wait().exits(137);
    let (mut terminal, inside) = terminal::open();
    let second = at(restoring(place, &bundle, &["--shell-job"], &images), inside);
    terminal.types("two\n");
    terminal.shows("<two>");
    terminal.types("\x04");
    second.wait().exits(0);
}

fn criu(place: &Place, args: &[&str], images: &Path) -> Call {
    Call::new(&place.dir, "criu").args(args).arg("-D").arg(images).patience(LONG)
}

fn pages_may_go_to_a_page_server(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let _container = place.start(&bundle);
    runs_on(&bundle);
    let images = place.new_dir("images");
    let port = ["page-server", "--address", "127.0.0.1", "--port", "27301"];
    let server = criu(place, &port, &images).spawn();
    eventually("the server listens", || listens(27301).then_some(()));
    save(place, &["--page-server", "127.0.0.1:27301"], &images);
    server.wait().ok();
    let _again = restore(place, &bundle, &[], &images);
    runs_on(&bundle);
}

fn listens(port: u16) -> bool {
    let text = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    text.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
}

/// A checkpoint whose pages wait to be fetched from `port`; told by the status descriptor, 0 below.
fn lasting(place: &Place, images: &Path, port: u16) -> tests::Running {
    let (reader, writer) = terminal::pipe();
    let server = format!("127.0.0.1:{port}");
    let options = ["--lazy-pages", "--page-server", &server, "--status-fd", "9"];
    let call = saving(place, &options, images).before_exec(move || {
        use std::os::fd::AsRawFd;
        // SAFETY: system calls with integers.
        match unsafe { libc::dup2(writer.as_raw_fd(), 9) } {
            9 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    });
    let running = call.spawn();
    let mut byte = [1];
    use std::io::Read;
    fs::File::from(reader).read_exact(&mut byte).expect("word that the pages are ready");
    assert_eq!(byte, [0]);
    running
}

fn pages_may_follow_when_they_are_needed(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let container = place.start(&bundle);
    runs_on(&bundle);
    let images = place.path("images");
    let checkpoint = lasting(place, &images, 27302);
    let port = ["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", "27302"];
    let daemon = criu(place, &port, &images).spawn();
    eventually("the daemon waits", || images.join("lazy-pages.socket").exists().then_some(()));
    // The first one is there until all pages were fetched.
    let other = format!("{}-other", place.id);
    let bundle = bundle.set("/linux/cgroupsPath", json!(format!("/{other}")));
    bundle.save();
    let call = place.hull().args(["restore", "--detach", "--lazy-pages", "--image-path"]);
    let call = call.arg(&images).arg("--work-path").arg(&images).arg("--bundle").arg(&bundle.dir);
    call.arg(&other).patience(LONG).ok();
    let other = Container::named(place, &other);
    runs_on(&bundle);
    checkpoint.wait().ok();
    daemon.wait().ok();
    container.command("state").run().complains(&["does not exist"]);
    runs_on(&bundle);
    other.delete_force();
}

fn a_lasting_checkpoint_does_not_hold_up_delete(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let container = place.start(&bundle);
    runs_on(&bundle);
    let checkpoint = lasting(place, &place.path("images"), 27303);
    container.delete_force();
    container.command("state").run().complains(&["does not exist"]);
    // CRIU holds what it saved until it ends itself.
    let children = format!("/proc/{0}/task/{0}/children", checkpoint.pid());
    let criu = fs::read_to_string(children).expect("its children");
    Call::new(&place.dir, "kill").arg("-KILL").args(criu.split_whitespace()).ok();
    checkpoint.wait().fails();
}

fn network_may_be_left_empty(place: &Place) {
    needs_criu(place);
    let bundle = counter(place);
    let container = place.start(&bundle);
    runs_on(&bundle);
    container.exec(&["ip", "link", "show", "lo"]).ok().says("UP");
    let images = place.path("images");
    save(place, &["--empty-ns", "network"], &images);
    let again = restore(place, &bundle, &["--empty-ns", "network"], &images);
    runs_on(&bundle);
    again.exec(&["ip", "link", "show", "lo"]).ok().does_not_say("UP");
    let wrong = saving(place, &["--empty-ns", "pid"], &place.path("wrong"));
    wrong.run().complains(&["network is expected"]);
}

fn cgroups_are_treated_as_asked(place: &Place) {
    needs_criu(place);
    let mut bundle = counter(place);
    let mut containers = vec![place.start(&bundle)];
    for (number, mode) in ["ignore", "soft", "full"].iter().enumerate() {
        runs_on(&bundle);
        let images = place.path(&format!("images{number}"));
        save(place, &["--manage-cgroups-mode", mode], &images);
        if *mode == "ignore" {
            // Only so may it come back in another cgroup than it was in.
            bundle = bundle.set("/linux/cgroupsPath", json!(format!("/{}-other", place.id)));
            bundle.save();
        }
        let again = restore(place, &bundle, &["--manage-cgroups-mode", mode], &images);
        let group =
            fs::read_to_string(format!("/proc/{}/cgroup", again.pid())).expect("its cgroup");
        assert!(group.contains(&format!("/{}-other", place.id)), "{mode}: {group}");
        containers.push(again);
    }
    // The container's own is there already.
    let images = place.path("images-strict");
    save(place, &["--manage-cgroups-mode", "strict"], &images);
    let strict = restoring(place, &bundle, &["--manage-cgroups-mode", "strict"], &images);
    strict.run().complains(&["existing cgroups"]);
    let wrong = saving(place, &["--manage-cgroups-mode", "perhaps"], &place.path("wrong"));
    wrong.run().complains(&["soft, full, strict or ignore"]);
}

fn restore_in_the_foreground_passes_the_status_on(place: &Place) {
    needs_criu(place);
    let script =
        "exec </dev/null >/dev/null 2>&1; until test -e /tmp/go; do sleep 0.1; done; exit 7";
    let bundle = place.bundle().sh(script);
    for keep in [false, true] {
        let _container = place.start(&bundle);
        let images = place.path(if keep { "kept" } else { "images" });
        save(place, &[], &images);
        let options: &[&str] = if keep { &["--keep"] } else { &[] };
        let running = restoring(place, &bundle, options, &images).spawn();
        eventually("it runs", || {
            place.call(&["state", &place.id]).stdout.contains("running").then_some(())
        });
        fs::write(bundle.rootfs().join("tmp/go"), "").expect("the word to go");
        running.wait().exits(7);
        fs::remove_file(bundle.rootfs().join("tmp/go")).expect("the word taken back");
        let state = place.call(&["state", &place.id]);
        if keep {
            assert_eq!(state.ok().json()["status"], "stopped");
        } else {
            state.complains(&["does not exist"]);
        }
    }
}

/// Its socket is hull's, in the directory of states, and a mount.
fn one_that_tells_its_readiness_can_be_saved(place: &Place) {
    needs_criu(place);
    let manager = UnixDatagram::bind(place.path("manager.sock")).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let script = "exec </dev/null >/dev/null 2>&1; inside inside notify READY=1
        while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.1; done";
    let bundle = place.bundle().helper(0o755).sh(script);
    let call = place.running(&bundle).arg("--detach");
    call.env("NOTIFY_SOCKET", place.path("manager.sock")).ok();
    runs_on(&bundle);
    let images = place.path("images");
    save(place, &[], &images);
    let _again = restore(place, &bundle, &[], &images);
    runs_on(&bundle);
}

fn unlinked_files_are_kept_when_asked(place: &Place) {
    needs_criu(place);
    let script = "exec </dev/null >/dev/null 2>&1; echo kept >/tmp/f; ln /tmp/f /tmp/g
        exec 9</tmp/f; rm /tmp/f; until test -e /tmp/go; do sleep 0.1; done; cat <&9 >/tmp/out; sleep 1000";
    let bundle = place.bundle().sh(script);
    let _container = place.start(&bundle);
    eventually("it has unlinked", || {
        let inside = |name: &str| bundle.rootfs().join(name).exists();
        (inside("tmp/g") && !inside("tmp/f")).then_some(())
    });
    let images = save_only_with(place, "--link-remap");
    let _again = restore(place, &bundle, &[], &images);
    fs::write(bundle.rootfs().join("tmp/go"), "").expect("the word to go");
    eventually("it reads on", || {
        let out = fs::read_to_string(bundle.rootfs().join("tmp/out")).ok()?;
        (out == "kept\n").then_some(())
    });
}

fn a_stopped_one_cannot_be_saved(place: &Place) {
    place.only_hull();
    let container = place.start(&place.bundle().args(&["true"]));
    container.becomes("stopped");
    let output = place.hull().args(["checkpoint", &place.id]).run();
    output.complains(&["cannot be checkpointed in stopped state"]);
}

fn images_must_be_there(place: &Place) {
    place.only_hull();
    let bundle = counter(place);
    bundle.save();
    let call = place.hull().args(["restore", "--image-path"]).arg(place.path("nothing"));
    let call = call.arg("--bundle").arg(bundle.rootfs().parent().expect("a bundle"));
    call.arg(&place.id).run().complains(&["nothing: No such file or directory"]);
}

/// As for one that is made anew. Nothing is left of the try.
fn resctrl_is_needed_to_be_restored_into_a_group(place: &Place) {
    place.only_hull();
    if Path::new("/sys/fs/resctrl/schemata").exists() {
        place.cannot("resctrl is here");
    }
    let images = place.new_dir("images");
    fs::write(images.join("descriptors.json"), r#"["/dev/null","/dev/null","/dev/null"]"#)
        .expect("the names of the streams");
    let group = serde_json::json!({"closID": "hull", "l3CacheSchema": "L3:0=f"});
    let bundle = counter(place).set("/linux/intelRdt", group);
    bundle.save();
    let call = place.hull().args(["restore", "--image-path"]).arg(images);
    let call = call.arg("--bundle").arg(&bundle.dir);
    call.arg(&place.id).run().complains(&["linux.intelRdt: resctrl is not mounted"]);
}

fn a_microvm_cannot_be_saved_by_criu(place: &Place) {
    let container = place.start(&place.bundle().args(&["sleep", "1000"]));
    let output = place.hull().args(["checkpoint", &place.id]).run();
    output.complains(&["checkpoint is not supported for a microvm"]);
    container.delete_force();
}
