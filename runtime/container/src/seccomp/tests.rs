//! Profiles compiled, and the programs run as the kernel runs them.

use super::*;
use serde_json::{Value, json};

const AUDIT_X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

/// Runs a classic BPF program on a `struct seccomp_data`.
pub(super) fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend([0; 8]);
    for arg in args {
        data.extend(arg.to_ne_bytes());
    }
    let word = |at: usize| u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
    let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
    let mut scratch = [0u32; 16];
    loop {
        let insn = &program[at * 8..at * 8 + 8];
        let code = u16::from_ne_bytes([insn[0], insn[1]]);
        let (yes, no) = (usize::from(insn[2]), usize::from(insn[3]));
        let k = u32::from_ne_bytes(insn[4..8].try_into().unwrap());
        at += 1;
        let mut branch = |condition: bool| at += if condition { yes } else { no };
        match code {
            0x20 => a = word(k as usize),
            0x60 => a = scratch[k as usize],
            0x02 => scratch[k as usize] = a,
            0x54 => a &= k,
            0x07 => x = a,
            0x87 => a = x,
            0x05 => at += k as usize,
            0x15 => branch(a == k),
            0x25 => branch(a > k),
            0x35 => branch(a >= k),
            0x45 => branch(a & k != 0),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn profile(value: Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

fn program(value: Value) -> Vec<u8> {
    compile(&profile(value), None).unwrap().program
}

fn number(name: &str) -> u32 {
    libseccomp::ScmpSyscall::from_name(name).unwrap().as_raw_syscall() as u32
}

fn answer(program: &[u8], name: &str, args: [u64; 6]) -> u32 {
    run(program, AUDIT_X86_64, number(name), args)
}

/// What engines make of the profile that they share (its own dialect, by architecture and capability).
fn engine_default() -> Option<Value> {
    let text = std::fs::read_to_string("/usr/share/containers/seccomp.json").ok()?;
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let object = value.as_object_mut().unwrap();
    object.remove("archMap");
    object.remove("defaultErrno");
    object.insert(
        "architectures".into(),
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    );
    let rules: Vec<Value> = object["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| {
            let none = |key: &str, sub: &str| {
                rule[key].get(sub).is_none_or(|list| list.as_array().unwrap().is_empty())
            };
            none("includes", "caps")
                && (none("includes", "arches")
                    || rule["includes"]["arches"].to_string().contains("amd64"))
        })
        .map(|rule| {
            let mut out = json!({"names": rule["names"], "action": rule["action"]});
            for key in ["args", "errnoRet"] {
                if !rule[key].is_null() && rule[key] != json!([]) {
                    out[key] = rule[key].clone();
                }
            }
            out
        })
        .collect();
    object.insert("syscalls".into(), Value::Array(rules));
    Some(value)
}

#[test]
fn the_default_profile_of_engines_compiles() {
    let Some(value) = engine_default() else { return };
    let program = program(value);
    assert_eq!(answer(&program, "read", [0; 6]), ALLOW);
    assert_eq!(answer(&program, "clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&program, "kexec_load", [0; 6]) & 0xffff_0000, ERRNO);
    // Newer than anything known: not refused but absent.
    assert_eq!(run(&program, AUDIT_X86_64, 9000, [0; 6]), ERRNO | libc::ENOSYS as u32);
}

#[test]
fn actions_and_errnos() {
    let program = program(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [
            {"names": ["read", "no_such_call_yet"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
            {"names": ["open"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["close"], "action": "SCMP_ACT_KILL"},
            {"names": ["stat"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["fstat"], "action": "SCMP_ACT_TRAP"},
            {"names": ["lstat"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            {"names": ["poll"], "action": "SCMP_ACT_LOG"},
        ],
    }));
    for (name, want) in [
        ("read", ALLOW),
        ("write", ERRNO | 5),
        ("open", ERRNO | 1),
        ("close", 0),
        ("stat", 0x8000_0000),
        ("fstat", 0x0003_0000),
        ("lstat", 0x7ff0_0007),
        ("poll", 0x7ffc_0000),
        ("mmap", ERRNO | 38),
    ] {
        assert_eq!(answer(&program, name, [0; 6]), want, "{name}");
    }
}

#[test]
fn operators() {
    for (op, value, two, yes, no) in [
        ("SCMP_CMP_NE", 5u64, 0u64, 6u64, 5u64),
        ("SCMP_CMP_LT", 5, 0, 4, 5),
        ("SCMP_CMP_LE", 5, 0, 5, 6),
        ("SCMP_CMP_EQ", 5 << 33, 0, 5 << 33, 5),
        ("SCMP_CMP_GE", 5, 0, 5, 4),
        ("SCMP_CMP_GT", 5, 0, 1 << 40, 5),
        ("SCMP_CMP_MASKED_EQ", 0xf0, 0x50, 0x5f, 0x6f),
    ] {
        let program = program(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO",
                          "args": [{"index": 1, "value": value, "valueTwo": two, "op": op}]}],
        }));
        assert_eq!(answer(&program, "ioctl", [0, yes, 0, 0, 0, 0]), ERRNO | 1, "{op} {yes}");
        assert_eq!(answer(&program, "ioctl", [0, no, 0, 0, 0, 0]), ALLOW, "{op} {no}");
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_on_several_a_conjunction() {
    let rule = |args: Value| {
        program(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": args}],
        }))
    };
    let arg = |index: u64, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let either = rule(json!([arg(0, 0), arg(0, 8)]));
    assert_eq!(answer(&either, "personality", [8, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&either, "personality", [9, 0, 0, 0, 0, 0]), ERRNO | 1);
    let both = rule(json!([arg(0, 1), arg(1, 2)]));
    assert_eq!(answer(&both, "personality", [1, 2, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&both, "personality", [1, 3, 0, 0, 0, 0]), ERRNO | 1);
}

#[test]
fn flags_as_the_kernel_numbers_them() {
    let of = |flags: Value, action: &str| {
        let mut value = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/run/listener",
            "syscalls": [{"names": ["mkdir"], "action": action}],
        });
        if !flags.is_null() {
            value["flags"] = flags;
        }
        compile(&profile(value), None).unwrap().flags
    };
    assert_eq!(of(Value::Null, "SCMP_ACT_ERRNO"), FLAG_SPEC_ALLOW);
    assert_eq!(of(json!([]), "SCMP_ACT_ERRNO"), 0);
    let all = json!([
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
    ]);
    assert_eq!(of(all.clone(), "SCMP_ACT_ERRNO"), 0b110);
    assert_eq!(of(all, "SCMP_ACT_NOTIFY"), 0b10_1110);
}

#[test]
fn nonsense_is_refused_by_name() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    for (value, name) in [
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "defaultAction"),
        (json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}), "errnoRet"),
        (rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})), "listenerPath"),
        (rule(json!({"names": [""], "action": "SCMP_ACT_ERRNO"})), "syscalls[0]"),
        (
            rule(
                json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}),
            ),
            "argument 6",
        ),
    ] {
        let error = compile(&profile(value), None).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn the_cache_gives_what_was_compiled_and_believes_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let directory = std::env::temp_dir().join(format!("hull-seccomp-test-{}", std::process::id()));
    let profile = profile(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    let want = compile(&profile, Some(&directory)).unwrap();
    let files = || {
        std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    let file = files().pop().unwrap();
    assert_eq!(files().len(), 1);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        cache::Cache::open(&directory, &profile).unwrap().get().as_ref(),
        Some(&want.program)
    );
    assert_eq!(compile(&profile, Some(&directory)).unwrap(), want);
    // A changed byte, a file or a directory that others can write to.
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(cache::Cache::open(&directory, &profile).unwrap().get(), None);
    assert_eq!(compile(&profile, Some(&directory)).unwrap(), want);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(cache::Cache::open(&directory, &profile).unwrap().get(), None);
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(cache::Cache::open(&directory, &profile).is_none());
    assert_eq!(compile(&profile, Some(&directory)).unwrap(), want);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn an_installed_filter_filters() {
    use std::os::unix::process::CommandExt;
    let filter = compile(
        &profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]})),
        None,
    )
    .unwrap();
    let mut command = std::process::Command::new("mkdir");
    command.arg("/tmp/hull-seccomp-test-never").env("LC_ALL", "C");
    // SAFETY: two system calls.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            filter.install().map(|_| ())
        })
    };
    let output = command.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
}

#[test]
fn a_listener_reaches_its_path_with_the_state() {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::io::IoSliceMut;
    use std::os::fd::AsRawFd;
    let path = std::env::temp_dir().join(format!("hull-seccomp-listener-{}", std::process::id()));
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let filter = compile(
        &profile(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m",
                        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
        ),
        None,
    )
    .unwrap();
    assert!(filter.notifies());
    let fd = std::fs::File::open("/dev/null").unwrap().into();
    send_listener(&filter, fd, "1.2.0", &json!({"id": "x"}), 42).unwrap();
    let (stream, _) = socket.accept().unwrap();
    let mut buffer = [0u8; 4096];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
    let rights = message
        .cmsgs()
        .unwrap()
        .any(|c| matches!(c, ControlMessageOwned::ScmRights(fds) if fds.len() == 1));
    let count = message.bytes;
    assert!(rights);
    let got: Value = serde_json::from_slice(&buffer[..count]).unwrap();
    let want = json!({"ociVersion": "1.2.0", "fds": ["seccompFd"], "pid": 42, "metadata": "m", "state": {"id": "x"}});
    assert_eq!(got, want);
    std::fs::remove_file(path).unwrap();
}
