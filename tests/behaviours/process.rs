//! The process: status, arguments, environment, user, what it inherits.

use serde_json::json;
use std::os::fd::AsRawFd;
use tests::{Bundle, Call, Output, Place, subject};

subject! {
    both: exit_status_is_passed_on, death_by_signal_is_128_and_its_number, missing_executable_is_named,
        missing_executable_by_path_is_named, executable_without_permission_is_refused,
        directory_is_no_executable, file_of_no_known_format_is_refused, script_runs_by_its_interpreter,
        environment_is_the_configs, path_of_the_environment_is_searched, working_directory_is_the_configs,
        missing_working_directory_is_made, home_is_taken_from_passwd, home_of_the_config_wins,
        arguments_arrive_unchanged, large_environment_arrives_whole, it_is_the_first_process,
        it_sees_no_other_process, it_has_three_descriptors, umask_is_the_configs, oom_score_adj_is_the_configs,
        rlimits_are_the_configs, no_new_privileges_is_the_configs, hostname_is_the_configs,
        domainname_is_the_configs, personality_is_the_configs, signals_are_at_their_defaults,
        it_leads_a_session, zombies_left_behind_do_no_harm, children_end_with_it, terminating_signal_can_be_handled,
        ignored_sigterm_leaves_it_running, foreground_run_passes_signals_on, runs_that_end_at_once_all_end,
        user_of_the_process_can_be_unnamed;
    container: caller_descriptors_do_not_leak, preserved_descriptors_arrive, scheduler_is_the_configs,
        nice_is_the_configs, io_priority_is_the_configs, apparmor_profile_is_refused_without_apparmor,
        selinux_label_is_refused_without_selinux, command_line_of_windows_is_refused,
        killed_by_itself_without_pid_namespace, listen_fds_are_passed_on, cpu_affinity_of_exec_is_accepted,
        memory_policy_is_honoured_or_refused, keyring_is_its_own, affinity_of_the_caller_is_not_its_own,
        capability_to_override_permissions_counts;
}

fn exit_status_is_passed_on(place: &Place) {
    for code in [0, 1, 42] {
        place.run(&place.bundle().sh(&format!("exit {code}"))).exits(code);
    }
}

fn death_by_signal_is_128_and_its_number(place: &Place) {
    for (name, number) in [("KILL", 9), ("TERM", 15)] {
        // A first process without a handler ignores TERM (pid_namespaces(7)),
        // so it sets one that dies of what it gets.
        let bundle =
            place.bundle().sh("trap 'exit 143' TERM; echo ready; while :; do sleep 0.05; done");
        let mut running = place.running(&bundle).spawn();
        running.says("ready");
        place.call(&["kill", &place.id, name]).ok();
        running.wait().exits(128 + number);
    }
}

fn missing_executable_is_named(place: &Place) {
    place
        .run(&place.bundle().args(&["no-such-program"]))
        .complains(&["executable file not found in $PATH"])
        .complains(&["no-such-program"]);
}

fn missing_executable_by_path_is_named(place: &Place) {
    let output = place.run(&place.bundle().args(&["/no/such/program"]));
    output.complains(&["no such file or directory"]).complains(&["/no/such/program"]);
}

fn executable_without_permission_is_refused(place: &Place) {
    let bundle = place.bundle().file("/bin/closed", "#!/bin/sh\n", 0o644).args(&["/bin/closed"]);
    place.run(&bundle).complains(&["permission denied"]);
}

fn directory_is_no_executable(place: &Place) {
    place.run(&place.bundle().args(&["/bin"])).complains(&["permission denied", "is a directory"]);
}

fn file_of_no_known_format_is_refused(place: &Place) {
    let bundle = place.bundle().file("/bin/odd", "\u{1}\u{2}\u{3}\u{4}", 0o755).args(&["/bin/odd"]);
    place.run(&bundle).complains(&["exec format error"]);
}

fn script_runs_by_its_interpreter(place: &Place) {
    let bundle = place
        .bundle()
        .file("/bin/script", "#!/bin/sh\necho $0 $1\n", 0o755)
        .args(&["/bin/script", "one"]);
    place.run(&bundle).ok().prints("/bin/script one");
}

fn environment_is_the_configs(place: &Place) {
    let bundle =
        place.bundle().env("A=1").env("B=two words").env("EMPTY=").env("HOME=/").args(&["env"]);
    let output = place.run(&bundle);
    output.ok();
    let mut lines = output.lines();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "A=1",
            "B=two words",
            "EMPTY=",
            "HOME=/",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        ]
    );
}

fn path_of_the_environment_is_searched(place: &Place) {
    let bundle = place
        .bundle()
        .file("/opt/here/tool", "#!/bin/sh\necho found\n", 0o755)
        .set("/process/env", json!(["PATH=/nowhere:/opt/here:/bin"]))
        .args(&["tool"]);
    place.run(&bundle).ok().prints("found");
}

fn working_directory_is_the_configs(place: &Place) {
    place
        .run(&place.bundle().set("/process/cwd", json!("/home/user")).args(&["pwd"]))
        .ok()
        .prints("/home/user");
}

fn missing_working_directory_is_made(place: &Place) {
    place
        .run(&place.bundle().set("/process/cwd", json!("/new/deep")).args(&["pwd"]))
        .ok()
        .prints("/new/deep");
}

fn home_is_taken_from_passwd(place: &Place) {
    place.run(&place.bundle().sh("echo $HOME")).ok().prints("/root");
    let bundle =
        place.bundle().set("/process/user", json!({"uid": 1000, "gid": 1000})).sh("echo $HOME");
    place.run(&bundle).ok().prints("/home/user");
}

fn home_of_the_config_wins(place: &Place) {
    place.run(&place.bundle().env("HOME=/tmp").sh("echo $HOME")).ok().prints("/tmp");
}

fn arguments_arrive_unchanged(place: &Place) {
    let odd = ["", " ", "a b", "ü€", "*", "$HOME", "line\nbreak", "-x", "\"quoted\"", "'"];
    let mut args = vec!["sh", "-c", "for a; do printf '<%s>' \"$a\"; done", "name"];
    args.extend(odd);
    let expected: String = odd.iter().map(|a| format!("<{a}>")).collect();
    place.run(&place.bundle().args(&args)).ok().prints(&expected);
}

fn large_environment_arrives_whole(place: &Place) {
    let bundle = place.bundle().env(&format!("BIG={}", "x".repeat(100_000))).sh("echo ${#BIG}");
    place.run(&bundle).ok().prints("100000");
}

fn it_is_the_first_process(place: &Place) {
    place.run(&place.bundle().sh("echo $$")).ok().prints("1");
}

fn it_sees_no_other_process(place: &Place) {
    place.run(&place.bundle().sh("cd /proc; echo [0-9]*")).ok().prints("1");
}

fn it_has_three_descriptors(place: &Place) {
    // `ls` has a fourth: the directory it reads.
    let output = place.run(&place.bundle().args(&["ls", "/proc/self/fd"]));
    output.ok();
    assert_eq!(output.lines(), ["0", "1", "2", "3"], "{output}");
}

fn umask_is_the_configs(place: &Place) {
    let bundle = place
        .bundle()
        .set("/process/user/umask", json!(0o027))
        .sh("umask; touch /f; stat -c %a /f");
    place.run(&bundle).ok().prints("0027\n640");
    place.run(&place.bundle().sh("umask")).ok().prints("0022");
}

fn oom_score_adj_is_the_configs(place: &Place) {
    let bundle =
        place.bundle().set("/process/oomScoreAdj", json!(123)).sh("cat /proc/self/oom_score_adj");
    place.run(&bundle).ok().prints("123");
}

fn rlimits_are_the_configs(place: &Place) {
    let bundle = place
        .bundle()
        .set(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096}]),
        )
        .sh("ulimit -Sn; ulimit -Hn; grep 'core file' /proc/self/limits");
    let output = place.run(&bundle);
    output.ok();
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(
        words,
        ["77", "99", "Max", "core", "file", "size", "0", "4096", "bytes"],
        "{output}"
    );
}

fn no_new_privileges_is_the_configs(place: &Place) {
    for (wanted, shown) in [(true, "1"), (false, "0")] {
        let bundle = place
            .bundle()
            .set("/process/noNewPrivileges", json!(wanted))
            .sh("grep NoNewPrivs /proc/self/status | cut -f 2");
        place.run(&bundle).ok().prints(shown);
    }
}

fn hostname_is_the_configs(place: &Place) {
    place
        .run(&place.bundle().set("/hostname", json!("other-name")).args(&["hostname"]))
        .ok()
        .prints("other-name");
}

fn domainname_is_the_configs(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .set("/domainname", json!("example.org"))
        .sh("cat /proc/sys/kernel/domainname");
    place.run(&bundle).ok().prints("example.org");
}

fn personality_is_the_configs(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .set("/linux/personality", json!({"domain": "LINUX32"}))
        .args(&["uname", "-m"]);
    place.run(&bundle).ok().prints("i686");
}

fn signals_are_at_their_defaults(place: &Place) {
    let bundle = place.bundle().args(&["grep", "Sig[BI]", "/proc/self/status"]);
    // As when a shell in the background or nohup started the caller.
    let output = place
        .running(&bundle)
        .before_exec(|| {
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGPIPE, libc::SIGUSR1]
            {
                // SAFETY: sets a disposition, no handler.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            // The C library's own two, which its posix_spawn leaves ignored and its signal() refuses.
            let ignore: [usize; 4] = [libc::SIG_IGN, 0, 0, 0];
            for signal in [32, 33] {
                // SAFETY: a struct sigaction of the kernel, which is only read.
                unsafe {
                    libc::syscall(
                        libc::SYS_rt_sigaction,
                        signal,
                        &ignore,
                        std::ptr::null::<u8>(),
                        8,
                    )
                };
            }
            // SAFETY: a set on the stack, filled before it is used.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&mut set);
                libc::sigaddset(&mut set, libc::SIGUSR2);
                libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            }
            Ok(())
        })
        .run();
    if !place.is_hull() {
        place.cannot("runc passes ignored signals on");
    }
    output.ok().says("SigBlk:\t0000000000000000").says("SigIgn:\t0000000000000000");
}

fn it_leads_a_session(place: &Place) {
    // Fields of stat after the name: state, parent, group, session.
    place
        .run(
            &place
                .bundle()
                .sh("read a b c d group session rest </proc/1/stat; echo $group $session"),
        )
        .ok()
        .prints("1 1");
}

fn zombies_left_behind_do_no_harm(place: &Place) {
    // The grandchild is orphaned to the first process, which never waits.
    let bundle = place.bundle().sh(
        "(sleep 0.05 & exec true); exec awk 'BEGIN { for (i = 0; i < 2000000; i++) x += i; print \"done\" }'",
    );
    place.run(&bundle).ok().prints("done");
}

fn children_end_with_it(place: &Place) {
    place.run(&place.bundle().sh("sleep 1000 & sleep 1000 & setsid sleep 1000 & exit 5")).exits(5);
}

fn terminating_signal_can_be_handled(place: &Place) {
    let bundle =
        place.bundle().sh("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    let mut running = place.running(&bundle).spawn();
    running.says("ready");
    place.call(&["kill", &place.id]).ok();
    running.wait().exits(7).says("bye");
}

fn ignored_sigterm_leaves_it_running(place: &Place) {
    let bundle = place
        .bundle()
        .sh("trap '' TERM; echo ready; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done");
    let container = place.start(&bundle);
    container.says("ready");
    container.kill("TERM");
    let seen = container.stdout().lines().count();
    tests::eventually("it goes on", || {
        (container.stdout().lines().count() > seen + 3).then_some(())
    });
    assert_eq!(container.status(), "running");
    container.kill("KILL");
    container.becomes("stopped");
    container.delete();
}

fn foreground_run_passes_signals_on(place: &Place) {
    for (name, number) in [("TERM", libc::SIGTERM), ("HUP", libc::SIGHUP), ("USR1", libc::SIGUSR1)]
    {
        let bundle = place
            .bundle()
            .sh(&format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.05; done"));
        let mut running = place.running(&bundle).spawn();
        running.says("ready");
        running.signal(number);
        running.wait().exits(9);
    }
}

fn runs_that_end_at_once_all_end(place: &Place) {
    let times = if place.is_vm() { 5 } else { 25 };
    let bundle = place.bundle().sh("exit 3");
    for _ in 0..times {
        place.run(&bundle).exits(3);
    }
}

fn user_of_the_process_can_be_unnamed(place: &Place) {
    let bundle = place
        .bundle()
        .set("/process/user", json!({"uid": 4711, "gid": 4712}))
        .sh("id -u; id -g; id -G; pwd");
    place.run(&bundle).ok().prints("4711\n4712\n4712\n/");
}

/// Calls with some file open at descriptors 3, 4 and 5 that exec keeps.
fn with_descriptors(place: &Place, bundle: &Bundle, options: &[&str]) -> Output {
    bundle.save();
    with_descriptors_of(
        place.hull().arg("run").args(options).arg("--bundle").arg(&bundle.dir).arg(&place.id),
    )
}

fn with_descriptors_of(call: Call) -> Output {
    let file = std::fs::File::open("/etc/passwd").expect("a file");
    let raw = file.as_raw_fd();
    call.before_exec(move || {
        for fd in [3, 4, 5] {
            // SAFETY: dup2 with descriptors of this process, then the flag off.
            unsafe {
                if raw != fd {
                    libc::dup2(raw, fd);
                } else {
                    libc::fcntl(fd, libc::F_SETFD, 0);
                }
            }
        }
        Ok(())
    })
    .run()
}

fn caller_descriptors_do_not_leak(place: &Place) {
    let output = with_descriptors(place, &place.bundle().args(&["ls", "/proc/self/fd"]), &[]);
    output.ok();
    assert_eq!(output.lines(), ["0", "1", "2", "3"], "{output}");
}

fn preserved_descriptors_arrive(place: &Place) {
    let bundle = place.bundle().sh("ls /proc/self/fd | tr '\\n' ' '; head -c 5 <&4");
    let output = with_descriptors(place, &bundle, &["--preserve-fds", "2"]);
    output.ok().prints("0 1 2 3 4 5 root:");
}

fn listen_fds_are_passed_on(place: &Place) {
    let bundle = place.bundle().sh("echo $LISTEN_FDS $LISTEN_PID; head -c 5 <&3");
    bundle.save();
    // The variables are for the process that finds its own number in them
    // (sd_listen_fds(3)), which a shell can know before it becomes hull.
    let output = with_descriptors_of(
        Call::new(&place.dir, "/bin/sh")
            .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"])
            .arg(&place.program)
            .arg("--root")
            .arg(place.root())
            .args(["run", "--bundle"])
            .arg(&bundle.dir)
            .arg(&place.id),
    );
    output.ok().prints("1 1\nroot:");
}

fn scheduler_is_the_configs(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .helper(0o755)
        .set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 3}))
        .more_capabilities(&["CAP_SYS_NICE"])
        .sh("inside inside scheduler; inside inside nice");
    place.run(&bundle).ok().prints(&format!("{}\n3", libc::SCHED_BATCH));
}

fn nice_is_the_configs(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .helper(0o755)
        .set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 7}))
        .args(&["inside", "inside", "nice"]);
    place.run(&bundle).ok().prints("7");
}

fn io_priority_is_the_configs(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}))
        .sh("ionice -p $$");
    place.run(&bundle).ok().prints("best-effort: prio 6");
}

fn apparmor_profile_is_refused_without_apparmor(place: &Place) {
    if std::path::Path::new("/sys/module/apparmor/parameters/enabled").exists() {
        place.cannot("AppArmor is here");
    }
    place
        .run(&place.bundle().set("/process/apparmorProfile", json!("hull-test")))
        .complains(&["apparmor"]);
}

fn selinux_label_is_refused_without_selinux(place: &Place) {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        place.cannot("SELinux is here");
    }
    let label = json!("system_u:system_r:container_t:s0");
    place.run(&place.bundle().set("/process/selinuxLabel", label)).complains(&["selinux"]);
}

fn command_line_of_windows_is_refused(place: &Place) {
    place.only_hull();
    place
        .run(&place.bundle().set("/process/commandLine", json!("dir c:")))
        .complains(&["commandLine"]);
}

fn killed_by_itself_without_pid_namespace(place: &Place) {
    let bundle = place.bundle().without_namespace("pid").sh("kill -KILL $$");
    place.run(&bundle).exits(137);
}

fn cpu_affinity_of_exec_is_accepted(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .set("/process/execCPUAffinity", json!({"initial": "0", "final": "0"}))
        .args(&["sleep", "1000"]);
    let container = place.start(&bundle);
    container.sh("grep Cpus_allowed_list /proc/self/status").ok().says("\t0\n");
}

fn memory_policy_is_honoured_or_refused(place: &Place) {
    place.only_hull();
    let bundle = place
        .bundle()
        .set("/linux/memoryPolicy", json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}))
        .sh("grep -c 'interleave:0' /proc/self/numa_maps");
    let output = place.run(&bundle);
    if output.code() != 0 {
        output.complains(&["memoryPolicy", "NUMA"]);
    }
}

fn keyring_is_its_own(place: &Place) {
    let bundle = place.bundle().set("/linux/maskedPaths", json!([])).args(&["cat", "/proc/keys"]);
    let output = place.run(&bundle);
    if output.code() != 0 {
        place.cannot("the kernel has no keyrings");
    }
    output.says(&format!("_ses.{}", place.id));
}

fn affinity_of_the_caller_is_not_its_own(place: &Place) {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("the CPUs");
    if online.trim() == "0" {
        place.cannot("there is one CPU only");
    }
    let bundle = place.bundle().sh("grep Cpus_allowed_list /proc/self/status");
    bundle.save();
    let output = Call::new(&place.dir, "taskset")
        .args(["-c", "0"])
        .arg(&place.program)
        .arg("--root")
        .arg(place.root())
        .args(["run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .ok();
    output.prints(&format!("Cpus_allowed_list:\t{}", online.trim()));
}

fn capability_to_override_permissions_counts(place: &Place) {
    let bundle = || {
        let bundle = place.bundle().file("bin/only-root", "#!/bin/sh\necho ran\n", 0o744);
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000})).args(&["/bin/only-root"])
    };
    place.run(&bundle()).complains(&["permission denied"]);
    let sets = ["bounding", "effective", "permitted", "inheritable", "ambient"];
    let given: serde_json::Value =
        sets.iter().map(|set| (set.to_string(), json!(["CAP_DAC_OVERRIDE"]))).collect();
    place.run(&bundle().set("/process/capabilities", given)).ok().prints("ran");
}
