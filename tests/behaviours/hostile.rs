//! Bundles that mean harm: paths that lead out, links that change meanwhile,
//! the advisories that runtimes have had.

use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::terminal::ConsoleSocket;
use tests::{Bundle, Call, Container, Output, Place, subject};

subject! {
    both: link_at_a_mount_target_leads_inside, absolute_link_at_a_mount_target_leads_inside,
        dots_in_a_destination_stay_inside, proc_that_is_a_link_is_not_followed_out, dev_that_is_a_link_is_not_followed_out,
        device_path_with_dots_stays_inside, working_directory_by_descriptor_stays_inside,
        exec_working_directory_by_descriptor_stays_inside, mount_over_proc_is_refused, mount_into_proc_is_refused,
        masked_path_is_not_a_way_to_a_link_of_dev_null, masked_link_does_not_mask_elsewhere,
        read_only_link_does_no_harm_elsewhere, passwd_that_never_ends_does_not_hang, long_hostname_is_refused,
        root_swapped_with_a_link_stays_inside, host_files_are_not_seen, link_loops_end, endless_arguments_are_refused,
        bind_of_a_link_takes_its_target_on_the_host, home_link_in_root_does_not_lead_out;
    container: runtime_is_not_overwritten_by_its_container, runtime_run_by_its_container_stays_whole,
        first_process_holds_no_way_out, racing_links_do_not_lead_out, console_that_is_a_link_is_not_followed_out,
        tmpfs_copy_up_does_not_follow_out, hook_of_the_root_is_not_run_on_the_host, exec_leaves_no_door_open,
        console_of_pts_link_is_not_followed;
}

/// A directory of the host with a mark that nobody inside may see.
fn outside(place: &Place) -> PathBuf {
    let dir = place.new_dir("outside");
    fs::write(dir.join("mark"), "outside").expect("a mark");
    dir
}

#[track_caller]
fn untouched(outside: &Path) {
    let names: Vec<_> =
        fs::read_dir(outside).expect("the directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["mark"], "something was made outside");
    assert_eq!(fs::read_to_string(outside.join("mark")).expect("the mark"), "outside");
}

/// It was refused, or did its work inside.
#[track_caller]
fn refused_or_inside(output: &Output) {
    if output.code() != 0 {
        output.fails();
    }
    output.does_not_say("outside");
}

fn link_at_a_mount_target_leads_inside(place: &Place) {
    let outside = outside(place);
    let up = format!("../../../../../../../../..{}", outside.display());
    let source = place.new_dir("source");
    fs::write(source.join("f"), "bound").expect("a file");
    let bundle = place
        .bundle()
        .symlink(up, "/mnt/link")
        .bind(&source, "/mnt/link/deep", &[])
        .sh("cat /mnt/link/deep/f; cat /mnt/link/mark 2>/dev/null");
    let output = place.run(&bundle);
    refused_or_inside(&output);
    untouched(&outside);
}

fn absolute_link_at_a_mount_target_leads_inside(place: &Place) {
    let outside = outside(place);
    let source = place.new_dir("source");
    let bundle = place
        .bundle()
        .symlink(&outside, "/mnt/link")
        .bind(&source, "/mnt/link", &[])
        .mount("/mnt/link/t", "tmpfs", "tmpfs", &[])
        .sh("ls -d /mnt/link; cat /mnt/link/mark 2>/dev/null");
    refused_or_inside(&place.run(&bundle));
    untouched(&outside);
}

fn dots_in_a_destination_stay_inside(place: &Place) {
    let outside = outside(place);
    let destination = format!("/mnt/../../../../../..{}/in", outside.display());
    let bundle = place.bundle().mount(&destination, "tmpfs", "tmpfs", &[]).sh("echo alive");
    refused_or_inside(&place.run(&bundle));
    untouched(&outside);
}

fn proc_that_is_a_link_is_not_followed_out(place: &Place) {
    let outside = outside(place);
    for target in [outside.display().to_string(), "tmp".to_owned(), "/sys".to_owned()] {
        let bundle =
            place.bundle().symlink(&target, "/proc").sh("test -e /proc/1/status && echo real");
        let output = place.run(&bundle);
        if output.code() == 0 {
            output.prints("real");
        } else {
            output.fails();
        }
        untouched(&outside);
    }
}

fn dev_that_is_a_link_is_not_followed_out(place: &Place) {
    place.only_hull();
    let outside = outside(place);
    let bundle = place.bundle().symlink(&outside, "/dev").sh("echo alive");
    refused_or_inside(&place.run(&bundle));
    untouched(&outside);
}

fn device_path_with_dots_stays_inside(place: &Place) {
    let outside = outside(place);
    let path = format!("/dev/../../../../../../..{}/node", outside.display());
    let device = json!([{"path": path, "type": "c", "major": 1, "minor": 3}]);
    refused_or_inside(&place.run(&place.bundle().set("/linux/devices", device)));
    untouched(&outside);
}

fn working_directory_by_descriptor_stays_inside(place: &Place) {
    let outside = outside(place);
    for fd in 3..12 {
        let bundle = place.bundle().set("/process/cwd", json!(format!("/proc/self/fd/{fd}"))).sh(
            &format!("cat ../../../../../../../..{}/mark 2>/dev/null; echo end", outside.display()),
        );
        if place.is_vm() && fd % 3 != 0 {
            continue; // A boot each: a third of them there.
        }
        refused_or_inside(&place.run(&bundle));
    }
}

fn exec_working_directory_by_descriptor_stays_inside(place: &Place) {
    let outside = outside(place);
    let container = place.start(&place.bundle().args(&["sleep", "1000"]));
    for fd in 3..16 {
        let script =
            format!("cat ../../../../../../../..{}/mark 2>/dev/null; echo end", outside.display());
        let cwd = format!("/proc/self/fd/{fd}");
        refused_or_inside(&container.exec_with(&["--cwd", &cwd], &["sh", "-c", &script]).run());
    }
}

fn mount_over_proc_is_refused(place: &Place) {
    let source = place.new_dir("source");
    let output = place.run(&place.bundle().bind(&source, "/proc", &[]).sh("ls /proc"));
    output.complains(&["proc"]);
}

fn mount_into_proc_is_refused(place: &Place) {
    place.only_hull();
    for destination in ["/proc/sys", "/proc/self/attr", "/proc/1/ns", "/mnt/../proc/sys/kernel"] {
        let bundle = place.bundle().mount(destination, "tmpfs", "tmpfs", &[]);
        place.run(&bundle).complains(&["proc"]);
    }
}

fn without_dev(place: &Place) -> Bundle {
    let mut bundle = place.bundle();
    if let Some(mounts) = bundle.config["mounts"].as_array_mut() {
        mounts
            .retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with("/dev"));
    }
    bundle
}

fn masked_path_is_not_a_way_to_a_link_of_dev_null(place: &Place) {
    // CVE-2025-31133: /dev/null made a link, so that masking binds its target.
    let bundle = without_dev(place)
        .file("/etc/target", "target", 0o644)
        .file("/etc/masked", "secret", 0o644)
        .symlink("/etc/target", "/dev/null")
        .set("/linux/maskedPaths", json!(["/etc/masked"]))
        .sh("cat /etc/masked");
    let output = place.run(&bundle);
    if output.code() != 0 {
        output.fails();
    }
    output.does_not_say("target").does_not_say("secret");
}

fn masked_link_does_not_mask_elsewhere(place: &Place) {
    let outside = outside(place);
    let bundle = place
        .bundle()
        .symlink(&outside, "/etc/masked")
        .set("/linux/maskedPaths", json!(["/etc/masked", "/etc/masked/mark"]));
    let output = place.run(&bundle);
    if output.code() != 0 {
        output.fails();
    }
    untouched(&outside);
}

fn read_only_link_does_no_harm_elsewhere(place: &Place) {
    let outside = outside(place);
    let bundle = place
        .bundle()
        .symlink(&outside, "/etc/fixed")
        .set("/linux/readonlyPaths", json!(["/etc/fixed"]));
    let output = place.run(&bundle);
    if output.code() != 0 {
        output.fails();
    }
    fs::write(outside.join("mark"), "outside").expect("still writable");
    untouched(&outside);
}

fn passwd_that_never_ends_does_not_hang(place: &Place) {
    place.only_hull();
    for kind in ["fifo", "zero", "directory", "large"] {
        let bundle =
            place.bundle().set("/process/user", json!({"uid": 1000, "gid": 1000})).sh("echo alive");
        let passwd = bundle.rootfs().join("etc/passwd");
        fs::remove_file(&passwd).expect("removed");
        match kind {
            "fifo" => drop(Call::new(&place.dir, "mkfifo").arg(&passwd).ok()),
            "zero" => symlink("/dev/zero", &passwd).expect("a link"),
            "directory" => fs::create_dir(&passwd).expect("a directory"),
            _ => fs::write(&passwd, vec![b'x'; 32 << 20]).expect("a large file"),
        }
        let output = place.run(&bundle);
        if output.code() == 0 {
            output.prints("alive");
        } else {
            output.fails();
        }
    }
}

fn long_hostname_is_refused(place: &Place) {
    place.run(&place.bundle().set("/hostname", json!("x".repeat(300)))).fails();
}

fn root_swapped_with_a_link_stays_inside(place: &Place) {
    let outside = outside(place);
    let bundle = place.bundle().sh("cat /mark");
    let root = bundle.rootfs();
    fs::rename(&root, bundle.dir.join("real")).expect("moved");
    symlink(&outside, &root).expect("a link");
    // A link may be refused or followed as a path of the host, which it is;
    // what may not happen is that something is made there.
    let output = place.run(&bundle);
    output.fails();
    let names: Vec<_> =
        fs::read_dir(&outside).expect("the directory").flatten().map(|e| e.file_name()).collect();
    assert!(
        names.iter().all(|name| ["mark", "proc", "dev", "sys"].iter().any(|n| name == n)),
        "{names:?}"
    );
}

fn host_files_are_not_seen(place: &Place) {
    let outside = outside(place);
    let bundle = place.bundle().more_capabilities(&["CAP_DAC_READ_SEARCH", "CAP_SYS_CHROOT"]).sh(&format!(
        "cat {0}/mark 2>/dev/null; for p in /proc/[0-9]*; do cat $p/root{0}/mark $p/cwd{0}/mark 2>/dev/null; done; echo end",
        outside.display()
    ));
    place.run(&bundle).ok().prints("end");
}

fn link_loops_end(place: &Place) {
    let bundle = place.bundle().symlink("b", "/mnt/a").symlink("a", "/mnt/b").mount(
        "/mnt/a/x",
        "tmpfs",
        "tmpfs",
        &[],
    );
    place.run(&bundle).fails();
}

fn endless_arguments_are_refused(place: &Place) {
    let args: Vec<String> = (0..40).map(|_| "x".repeat(100_000)).collect();
    let mut all = vec!["true".to_owned()];
    all.extend(args);
    let output = place.run(&place.bundle().args(&all));
    if output.code() != 0 {
        output.complains(&["argument list too long", "too large", "too long", "args"]);
    }
}

fn bind_of_a_link_takes_its_target_on_the_host(place: &Place) {
    let source = place.new_dir("source");
    fs::write(source.join("f"), "real").expect("a file");
    symlink(&source, place.path("link")).expect("a link");
    place
        .run(&place.bundle().bind(&place.path("link"), "/mnt", &[]).args(&["cat", "/mnt/f"]))
        .ok()
        .prints("real");
}

fn home_link_in_root_does_not_lead_out(place: &Place) {
    let outside = outside(place);
    fs::write(outside.join("mark"), "outside").expect("a mark");
    let bundle = place
        .bundle()
        .symlink(&outside, "/home/user")
        .set("/process/cwd", json!("/home/user/new"))
        .sh("pwd");
    let output = place.run(&bundle);
    if output.code() != 0 {
        output.fails();
    }
    untouched(&outside);
}

/// A copy of the runtime that may be spoilt.
fn copied(place: &Place) -> (PathBuf, Vec<u8>) {
    let copy = place.new_dir("bin").join(if place.is_hull() { "hull" } else { "runc" });
    fs::copy(&place.program, &copy).expect("a copy of the runtime");
    let bytes = fs::read(&copy).expect("its bytes");
    (copy, bytes)
}

fn attacked(place: &Place, exec: &[&str]) {
    // CVE-2019-5736: whoever is executed from the runtime's own file can be
    // found in /proc and written to when it is not running any more.
    let (runtime, bytes) = copied(place);
    let bundle = place
        .bundle()
        .helper(0o755)
        .more_capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"])
        .args(&["/bin/inside", "inside", "attack-exe", "6"]);
    // busybox is shared by all bundles; this one gets its own, should it be hit.
    for name in ["busybox", "true", "sh"] {
        let path = bundle.rootfs().join("bin").join(name);
        fs::remove_file(&path).expect("the link gone");
        fs::copy("/bin/busybox", &path).expect("a copy");
    }
    bundle.save();
    let call = || Call::new(&place.dir, &runtime).arg("--root").arg(place.root());
    let mut running = call().args(["run", "--bundle"]).arg(&bundle.dir).arg(&place.id).spawn();
    running.says("attacking");
    while running.runs() {
        let _ = call().arg("exec").arg(&place.id).args(exec).run();
    }
    let _ = running.wait();
    assert!(fs::read(&runtime).expect("its bytes") == bytes, "the runtime's file was written to");
}

fn runtime_is_not_overwritten_by_its_container(place: &Place) {
    attacked(place, &["true"]);
}

fn runtime_run_by_its_container_stays_whole(place: &Place) {
    attacked(place, &["/proc/self/exe", "--version"]);
}

fn first_process_holds_no_way_out(place: &Place) {
    // CVE-2016-9962 and 2024-21626: descriptors of the host in a waiting init.
    let outside = outside(place);
    let container = place
        .create(&place.bundle().more_capabilities(&["CAP_SYS_PTRACE"]).args(&["sleep", "1000"]));
    let script = format!(
        "for p in /proc/[0-9]*; do for f in $p/fd/* $p/cwd $p/root; do cat $f/../../../../../../../..{0}/mark $f{0}/mark 2>/dev/null; done; done; echo end",
        outside.display()
    );
    container.sh(&script).ok().prints("end");
    container.start();
    container.sh(&script).ok().prints("end");
}

fn exec_leaves_no_door_open(place: &Place) {
    let outside = outside(place);
    let script = format!(
        "echo watching; i=0; while [ $i -lt 400 ]; do i=$((i+1)); for p in /proc/[0-9]*; do for f in $p/fd/* $p/cwd; do \
         for g in $f{0}/mark $f/../../../../../../..{0}/mark; do cat $g 2>/dev/null && echo \" by $g $(readlink $f)\"; done; done; done; done; echo end",
        outside.display()
    );
    let container = place.start(&place.bundle().more_capabilities(&["CAP_SYS_PTRACE"]).sh(&script));
    container.says("watching");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !container.stdout().contains("end") && std::time::Instant::now() < end {
        let _ = container.exec(&["true"]).run();
    }
    assert!(!container.stdout().contains("outside"), "{}", container.stdout());
}

fn racing_links_do_not_lead_out(place: &Place) {
    let outside = outside(place);
    let source = place.new_dir("source");
    let mut bundle = place.bundle().dir("/race/a").bind(&source, "/race/a/deep/er", &[]).mount(
        "/race/a/t",
        "tmpfs",
        "tmpfs",
        &[],
    );
    bundle = bundle.set(
        "/linux/devices",
        json!([{"path": "/race/a/node", "type": "c", "major": 1, "minor": 3}]),
    );
    let race = bundle.rootfs().join("race");
    symlink(&outside, race.join("b")).expect("a link");
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, race) = (stop.clone(), race.clone());
        std::thread::spawn(move || {
            let (a, b) = (path(&race.join("a")), path(&race.join("b")));
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: two paths that end with a zero, from no directory.
                unsafe {
                    libc::syscall(
                        libc::SYS_renameat2,
                        libc::AT_FDCWD,
                        a.as_ptr(),
                        libc::AT_FDCWD,
                        b.as_ptr(),
                        2,
                    )
                };
            }
        })
    };
    for _ in 0..40 {
        let output = place.run(&bundle);
        if output.code() != 0 {
            output.fails();
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().expect("the swapper");
    untouched(&outside);
}

fn path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no zero")
}

fn console_linked(place: &Place, bundle: Bundle) -> Output {
    let socket = ConsoleSocket::new(place.path("tty.sock"));
    bundle.save();
    place
        .hull()
        .args(["create", "--bundle"])
        .arg(&bundle.dir)
        .arg("--console-socket")
        .arg(&socket.path)
        .arg(&place.id)
        .run()
}

fn console_that_is_a_link_is_not_followed_out(place: &Place) {
    // CVE-2025-52565 and older: /dev/console made a link before the bind.
    let outside = outside(place);
    let bundle = without_dev(place)
        .set("/process/terminal", json!(true))
        .symlink(outside.join("console"), "/dev/console")
        .args(&["sleep", "1000"]);
    let output = console_linked(place, bundle);
    let container = Container::named(place, &place.id);
    if output.code() != 0 {
        output.fails();
    }
    untouched(&outside);
    drop(container);
}

fn console_of_pts_link_is_not_followed(place: &Place) {
    let outside = outside(place);
    let mut bundle = place.bundle().set("/process/terminal", json!(true)).args(&["sleep", "1000"]);
    // /dev is a directory of the host that holds a hostile link.
    let dev = place.new_dir("dev");
    symlink(outside.join("mark"), dev.join("console")).expect("a link");
    symlink(outside.join("ptmx"), dev.join("ptmx")).expect("a link");
    bundle.config["mounts"][1] =
        json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind", "rw"]});
    let output = console_linked(place, bundle);
    let container = Container::named(place, &place.id);
    if output.code() != 0 {
        output.fails();
    }
    untouched(&outside);
    drop(container);
}

fn tmpfs_copy_up_does_not_follow_out(place: &Place) {
    let outside = outside(place);
    let bundle = place
        .bundle()
        .symlink(&outside, "/opt")
        .mount("/opt", "tmpfs", "tmpfs", &["tmpcopyup"])
        .sh("cat /opt/mark 2>/dev/null; echo end");
    refused_or_inside(&place.run(&bundle));
    untouched(&outside);
}

fn hook_of_the_root_is_not_run_on_the_host(place: &Place) {
    let outside = outside(place);
    let script = format!("#!/bin/sh\ntouch {}/made\n", outside.display());
    let bundle = place.bundle().file("/bin/evil-hook", script, 0o755);
    let bundle =
        bundle.set("/hooks/startContainer", json!([{"path": "/bin/evil-hook"}])).sh("echo alive");
    let _ = place.run(&bundle);
    untouched(&outside);
}
