//! System call filters.

use serde_json::{Value, json};
use std::os::unix::net::UnixListener;
use tests::terminal::receive_fds;
use tests::wait::within;
use tests::{Bundle, Place, subject};

subject! {
    both: errno_is_returned, errno_of_the_config_is_returned, killing_kills, argument_is_looked_at,
        allow_list_suffices_for_a_shell, default_profile_of_engines_loads, logging_lets_pass, trap_sends_sigsys,
        unknown_names_are_skipped, unknown_action_is_refused, unknown_operator_is_refused,
        several_architectures_are_taken, it_works_without_no_new_privileges, flags_are_taken,
        start_container_hooks_are_filtered, unknown_architecture_is_refused, unknown_flag_is_refused, all_operators_work;
    container: notification_reaches_the_listener, notify_without_a_listener_is_refused,
        missing_listener_is_named, errno_for_a_killing_rule_is_refused_or_ignored;
}

fn with(place: &Place, seccomp: Value) -> Bundle {
    place.bundle().helper(0o755).set("/linux/seccomp", seccomp)
}

fn deny(name: &str, extra: Value) -> Value {
    let mut rule = json!({"names": [name], "action": "SCMP_ACT_ERRNO"});
    for (key, value) in extra.as_object().expect("an object") {
        rule[key] = value.clone();
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]})
}

// getpriority, a call nobody needs: its number on x86-64.
const CALL: &str = "140";

fn calls(place: &Place, seccomp: Value, args: &[&str]) -> tests::Output {
    let mut words = vec!["/bin/inside", "inside", "syscall", CALL];
    words.extend(args);
    place.run(&with(place, seccomp).args(&words))
}

fn errno_is_returned(place: &Place) {
    calls(place, deny("getpriority", json!({})), &["0", "0"]).exits(1).prints("error 1");
}

fn errno_of_the_config_is_returned(place: &Place) {
    calls(place, deny("getpriority", json!({"errnoRet": 38})), &["0", "0"])
        .exits(1)
        .prints("error 38");
    let all = json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5,
        "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    if place.is_hull() {
        let output = calls(place, all, &["0", "0"]);
        if output.code() == 1 && output.stdout.contains("error") {
            output.prints("error 95");
        } else {
            output.complains(&["defaultErrnoRet"]);
        }
    }
}

/// They are the image's programs. What hull itself needs to run them may be forbidden, too.
fn start_container_hooks_are_filtered(place: &Place) {
    for no_new_privileges in [true, false] {
        let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getpriority", "pidfd_open"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
        let script = format!(
            "/bin/inside inside syscall {CALL} 0 0 >/mark; grep NoNewPrivs /proc/self/status >>/mark"
        );
        let bundle = with(place, filter)
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]))
            .set(
                "/hooks",
                json!({"startContainer": [
                    {"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 20}]}),
            )
            .sh("cat /mark");
        let told = format!("error 38\nNoNewPrivs:\t{}", u8::from(no_new_privileges));
        place.run(&bundle).exits(0).prints(&told);
    }
}

fn killing_kills(place: &Place) {
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"] {
        calls(place, deny("getpriority", json!({"action": action})), &["0", "0"]).exits(159);
    }
}

fn trap_sends_sigsys(place: &Place) {
    calls(place, deny("getpriority", json!({"action": "SCMP_ACT_TRAP"})), &["0", "0"]).exits(159);
}

fn logging_lets_pass(place: &Place) {
    calls(place, deny("getpriority", json!({"action": "SCMP_ACT_LOG"})), &["0", "0"])
        .ok()
        .prints("20");
}

fn argument_is_looked_at(place: &Place) {
    let rule = |args: Value| deny("getpriority", json!({"errnoRet": 99, "args": args}));
    let only_groups = rule(json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]));
    calls(place, only_groups.clone(), &["0", "0"]).ok().prints("20");
    calls(place, only_groups, &["1", "0"]).exits(1).prints("error 99");
}

fn all_operators_work(place: &Place) {
    let verdict = |op: &str, value: u64, two: u64, given: &str| {
        let arg = json!({"index": 1, "value": value, "valueTwo": two, "op": op});
        let seccomp = deny("getpriority", json!({"errnoRet": 99, "args": [arg]}));
        // Who 7 is nobody here: the call itself fails with ESRCH.
        let output = calls(place, seccomp, &["0", given]);
        output.exits(1);
        output.stdout.trim() == "error 99"
    };
    let cases = [
        ("SCMP_CMP_NE", 99_998, 0, [true, true, true]),
        ("SCMP_CMP_LT", 99_998, 0, [true, false, false]),
        ("SCMP_CMP_LE", 99_998, 0, [true, true, false]),
        ("SCMP_CMP_EQ", 99_998, 0, [false, true, false]),
        ("SCMP_CMP_GE", 99_998, 0, [false, true, true]),
        ("SCMP_CMP_GT", 99_998, 0, [false, false, true]),
        ("SCMP_CMP_MASKED_EQ", 1, 1, [true, false, true]),
    ];
    let given = ["99997", "99998", "99999"];
    for (op, value, two, expected) in cases {
        for (text, hit) in given.iter().zip(expected) {
            let hit = if op == "SCMP_CMP_NE" { *text != "99998" } else { hit };
            if place.is_vm() && *text != "99998" && op != "SCMP_CMP_MASKED_EQ" {
                continue; // One boot for each operator is enough there.
            }
            assert_eq!(verdict(op, value, two, text), hit, "{op} {value} of {text}");
        }
    }
}

const SHELL_NEEDS: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clone",
    "clone3",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "execve",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "getrlimit",
    "getuid",
    "ioctl",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "readv",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sendmsg",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setuid",
    "sigaltstack",
    "stat",
    "statfs",
    "statx",
    "tgkill",
    "time",
    "umask",
    "uname",
    "vfork",
    "wait4",
    "write",
    "writev",
    "keyctl",
    "gettid",
    "socket",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_create1",
    "nanosleep",
    "clock_nanosleep",
    "getsockopt",
    "eventfd2",
    "sched_yield",
    "setsid",
    "tkill",
    "unlinkat",
    "fchown",
    "fchownat",
    "mount",
    "recvmsg",
    "seccomp",
];

fn allow_list_suffices_for_a_shell(place: &Place) {
    let seccomp = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": SHELL_NEEDS, "action": "SCMP_ACT_ALLOW"}]});
    let bundle =
        with(place, seccomp).sh("echo $(echo works); mkdir /x 2>/dev/null || echo no mkdir");
    place.run(&bundle).ok().prints("works\nno mkdir");
}

/// The profile podman brings, as it writes it into a config: conditions on
/// capabilities and architectures resolved.
fn default_profile() -> Option<Value> {
    let text = std::fs::read_to_string("/usr/share/containers/seccomp.json").ok()?;
    let mut profile: Value = serde_json::from_str(&text).ok()?;
    profile["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    let object = profile.as_object_mut()?;
    object.remove("archMap");
    object.remove("defaultErrno");
    object.retain(|key, _| {
        ["defaultAction", "defaultErrnoRet", "architectures", "syscalls"].contains(&key.as_str())
    });
    let rules = profile["syscalls"].as_array_mut()?;
    rules.retain(|rule| {
        let conditions = &rule["includes"];
        conditions["caps"].as_array().is_none_or(Vec::is_empty)
            && conditions["arches"].as_array().is_none_or(|a| a.iter().any(|x| x == "amd64"))
            && rule["excludes"]["arches"].as_array().is_none_or(|a| !a.iter().any(|x| x == "amd64"))
    });
    for rule in rules {
        let rule = rule.as_object_mut()?;
        rule.retain(|key, value| {
            ["names", "action", "args", "errnoRet"].contains(&key.as_str()) && !value.is_null()
        });
        if let Some(args) = rule.get_mut("args").and_then(Value::as_array_mut) {
            for arg in args {
                arg.as_object_mut()?.retain(|_, value| !value.is_null());
            }
        }
    }
    Some(profile)
}

fn default_profile_of_engines_loads(place: &Place) {
    let Some(profile) = default_profile() else {
        place.cannot("needs /usr/share/containers/seccomp.json")
    };
    for _ in 0..2 {
        // The second one may come from a cache.
        let bundle = with(place, profile.clone())
            .sh("echo works; mount -t tmpfs none /mnt 2>/dev/null || echo no mount");
        place.run(&bundle).ok().prints("works\nno mount");
    }
    place
        .run(&with(place, profile).args(&["grep", "Seccomp:", "/proc/self/status"]))
        .ok()
        .prints("Seccomp:\t2");
}

fn unknown_names_are_skipped(place: &Place) {
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["no_such_call", "getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]});
    calls(place, seccomp, &["0", "0"]).prints("error 99");
}

fn unknown_action_is_refused(place: &Place) {
    calls(place, deny("getpriority", json!({"action": "SCMP_ACT_SMILE"})), &[])
        .complains(&["SCMP_ACT_SMILE"]);
    calls(place, json!({"defaultAction": "SCMP_ACT_SMILE"}), &[]).complains(&["SCMP_ACT_SMILE"]);
}

fn unknown_operator_is_refused(place: &Place) {
    let args = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_ROUGHLY"}]);
    calls(place, deny("getpriority", json!({"args": args})), &[]).complains(&["SCMP_CMP_ROUGHLY"]);
}

fn unknown_architecture_is_refused(place: &Place) {
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ABACUS"], "syscalls": []});
    calls(place, seccomp, &[]).complains(&["SCMP_ARCH_ABACUS"]);
}

fn unknown_flag_is_refused(place: &Place) {
    place.only_hull();
    let mut seccomp = deny("getpriority", json!({}));
    seccomp["flags"] = json!(["SECCOMP_FILTER_FLAG_DREAM"]);
    calls(place, seccomp, &[]).complains(&["SECCOMP_FILTER_FLAG_DREAM"]);
}

fn several_architectures_are_taken(place: &Place) {
    let mut seccomp = deny("getpriority", json!({"errnoRet": 99}));
    seccomp["architectures"] =
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"]);
    calls(place, seccomp, &["0", "0"]).prints("error 99");
}

fn flags_are_taken(place: &Place) {
    place.only_hull();
    let mut seccomp = deny("getpriority", json!({"errnoRet": 99}));
    seccomp["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
    calls(place, seccomp, &["0", "0"]).prints("error 99");
}

fn it_works_without_no_new_privileges(place: &Place) {
    let bundle = with(place, deny("getpriority", json!({"errnoRet": 99})))
        .set("/process/noNewPrivileges", json!(false))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let bundle = bundle.args(&["/bin/inside", "inside", "syscall", CALL, "0", "0"]);
    place.run(&bundle).prints("error 99");
}

fn notification_reaches_the_listener(place: &Place) {
    let path = place.path("seccomp.sock");
    let listener = UnixListener::bind(&path).expect("a listener");
    listener.set_nonblocking(true).expect("not blocking");
    let mut seccomp = deny("getpriority", json!({"action": "SCMP_ACT_NOTIFY"}));
    seccomp["listenerPath"] = json!(path);
    seccomp["listenerMetadata"] = json!("for the listener");
    let bundle = with(place, seccomp).args(&["/bin/inside", "inside", "syscall", CALL, "0", "0"]);
    let running = place.running(&bundle).spawn();
    let stream = within(tests::wait::PATIENCE, || listener.accept().ok()).expect("nobody came").0;
    stream.set_nonblocking(false).expect("blocking");
    let (fd, message) =
        receive_fds(&stream).expect("a message").into_iter().next().expect("a descriptor");
    let state: Value = serde_json::from_slice(&message).expect("the container's process state");
    assert_eq!(state["fds"], json!(["seccompFd"]), "{state}");
    assert_eq!(state["metadata"], json!("for the listener"));
    assert_eq!(state["state"]["id"], json!(place.id));
    assert!(state["pid"].as_i64().is_some_and(|pid| pid > 0), "{state}");
    // Nobody answers: with the last listener gone, the call gets ENOSYS.
    drop((fd, stream));
    running.wait().exits(1).prints("error 38");
}

fn notify_without_a_listener_is_refused(place: &Place) {
    place
        .run(&with(place, deny("getpriority", json!({"action": "SCMP_ACT_NOTIFY"}))))
        .complains(&["listenerPath", "SCMP_ACT_NOTIFY"]);
}

fn missing_listener_is_named(place: &Place) {
    let mut seccomp = deny("getpriority", json!({"action": "SCMP_ACT_NOTIFY"}));
    seccomp["listenerPath"] = json!("/no/such.sock");
    place.run(&with(place, seccomp)).complains(&["/no/such.sock", "no such file"]);
}

fn errno_for_a_killing_rule_is_refused_or_ignored(place: &Place) {
    let output = calls(
        place,
        deny("getpriority", json!({"action": "SCMP_ACT_KILL_PROCESS", "errnoRet": 7})),
        &["0", "0"],
    );
    if output.code() != 159 {
        output.complains(&["errnoRet"]);
    }
}
