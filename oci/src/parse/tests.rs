use super::*;

const SMALL: &str = r#"{"ociVersion":"1.3.0","root":{"path":"r"},
    "process":{"user":{"uid":0,"gid":0},"args":["sh"],"cwd":"/"}}"#;

fn message(text: &str) -> String {
    parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn the_vm_object_is_our_own() {
    let text = SMALL.replacen(
        '{',
        r#"{"vm":{"hypervisor":{"path":"/hull"},"kernel":{"path":"/k","parameters":["a"]},
            "image":{"path":"/i","format":"raw"},"hwConfig":{"vcpus":2,"memory":1048576,
            "iomems":[{"firstGFN":1,"firstMFN":2,"nrMFNs":3}]},"more":1},"#,
        1,
    );
    let config = parse(text.as_bytes()).unwrap();
    let vm = config.vm.as_ref().unwrap();
    assert_eq!(vm.kernel.as_ref().unwrap().path, Path::new("/k"));
    assert_eq!(vm.hw_config.as_ref().unwrap().vcpus, Some(2));
    assert_eq!(vm.hw_config.as_ref().unwrap().memory, Some(1 << 20));
    assert!(config.spec.vm().is_none());

    let again = parse(&serde_json::to_vec(&config).unwrap()).unwrap();
    assert_eq!(again, config);
}

#[test]
fn a_vm_without_a_kernel_is_one_and_null_is_none() {
    let parsed = |vm: &str| parse(SMALL.replacen('{', vm, 1).as_bytes()).unwrap().vm;
    assert_eq!(parsed(r#"{"vm":{},"#), Some(Vm::default()));
    assert_eq!(parsed(r#"{"vm":null,"#), None);
    assert_eq!(parsed("{"), None);
}

#[test]
fn a_wrong_field_is_named_by_its_path() {
    for (from, to, path) in [
        (r#""uid":0"#, r#""uid":"root""#, "process.user.uid: invalid type: string \"root\""),
        (r#""args":["sh"]"#, r#""args":["sh",1]"#, "process.args[1]: invalid type"),
        (
            r#""root""#,
            r#""linux":{"namespaces":[{"type":"x"}]},"root""#,
            "linux.namespaces[0].type",
        ),
        (r#""root""#, r#""mounts":[{"source":"a"}],"root""#, "mounts[0]: missing field"),
        (r#""root""#, r#""vm":{"hwConfig":{"vcpus":-1}},"root""#, "vm.hwConfig.vcpus"),
    ] {
        let error = message(&SMALL.replace(from, to));
        assert!(error.starts_with(&format!("config.json: {path}")), "{error}");
    }
}

#[test]
fn what_is_no_json_is_said_with_its_place() {
    for text in ["", "{", "[", "nonsense", "{\"a\":}", "{} x", "\u{feff}{}", "{\"a\":\"\0\"}"] {
        let error = message(text);
        assert!(error.starts_with("config.json is not valid JSON: "), "{error}");
        assert!(error.contains("line 1 column"), "{error}");
    }
}

#[test]
fn what_is_json_but_no_object_is_refused() {
    for text in ["null", "1", "\"x\"", "[]", "true"] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn a_deep_document_is_refused_and_ends_nothing() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 100_000;
        let text = format!("{{\"x\":{}1{}}}", open.repeat(depth), close.repeat(depth));
        assert_eq!(message(&text), "config.json is nested more than 100 deep");
    }
}

#[test]
fn a_huge_document_is_refused_before_it_is_parsed() {
    let text = " ".repeat(MAX_DOCUMENT as usize + 1);
    assert!(matches!(parse(text.as_bytes()), Err(Error::TooLarge { .. })));
}

#[test]
fn a_nul_is_refused_by_the_path_of_its_string() {
    let error = message(&SMALL.replace("\"sh\"", "\"sh\",\"a\\u0000b\""));
    assert_eq!(error, "config.json: process.args[1]: must not contain a NUL character");
    let error = message(&SMALL.replacen('{', "{\"annotations\":{\"a\\u0000\":\"\"},", 1));
    assert!(error.contains("must not contain a NUL"), "{error}");
    // An escaped backslash before the digits is no NUL.
    parse(SMALL.replace("\"sh\"", "\"a\\\\u0000\"").as_bytes()).unwrap();
}

#[test]
fn what_engines_in_go_leave_out_or_write_as_null_is_understood() {
    let text = SMALL.replace(r#""user":{"uid":0,"gid":0},"#, "").replacen(
        '{',
        r#"{"mounts":null,"hooks":{"prestart":null},"linux":{"seccomp":null},"#,
        1,
    );
    let config = parse(text.as_bytes()).unwrap();
    assert_eq!(config.spec.process().as_ref().unwrap().user().uid(), 0);
    let text = SMALL.replacen('{', r#"{"linux":{"resources":{"pids":{"limit":null}}},"#, 1);
    parse(text.as_bytes()).unwrap();
}

#[test]
fn unknown_members_are_let_by() {
    parse(SMALL.replacen('{', r#"{"x-new":{"deep":[1]},"#, 1).as_bytes()).unwrap();
}

#[test]
fn a_process_document_may_leave_out_what_is_zero() {
    let process: crate::spec::Process = document(PROCESS, br#"{"args":["sh"],"cwd":"/"}"#).unwrap();
    assert_eq!(process.user().uid(), 0);
}

#[test]
fn monitoring_by_its_older_names_is_monitoring() {
    let monitoring = |rdt: &str| {
        let text = SMALL.replacen('{', &format!(r#"{{"linux":{{"intelRdt":{rdt}}},"#), 1);
        let config = parse(text.as_bytes())?;
        let linux = config.spec.linux().as_ref().unwrap();
        Ok::<_, Error>(*linux.intel_rdt().as_ref().unwrap().enable_monitoring())
    };
    assert_eq!(monitoring(r#"{"enableCMT":true}"#).unwrap(), Some(true));
    assert_eq!(monitoring(r#"{"enableMBM":true,"enableCMT":false}"#).unwrap(), Some(true));
    assert_eq!(monitoring(r#"{"\u0065nableMBM":true}"#).unwrap(), Some(true));
    assert_eq!(monitoring(r#"{"enableCMT":false,"enableMBM":null}"#).unwrap(), None);
    let error = monitoring(r#"{"enableMBM":"yes"}"#).unwrap_err().to_string();
    assert!(error.starts_with("config.json: linux.intelRdt.enableMBM: "), "{error}");
}

#[test]
fn another_platform_is_refused_though_the_types_lack_it() {
    let error = message(&SMALL.replacen('{', r#"{"freebsd":{"devices":[]},"#, 1));
    assert!(error.starts_with("config.json: freebsd: is not supported"), "{error}");
    parse(SMALL.replacen('{', r#"{"freebsd":null,"#, 1).as_bytes()).unwrap();
}

#[test]
fn no_tasks_at_all_meant_no_limit_before_1_3() {
    let limit = |version: &str, pids: &str| {
        let text = format!(
            r#"{{"ociVersion":"{version}","root":{{"path":"x"}},
                "linux":{{"resources":{{"pids":{pids}}}}}}}"#
        );
        let config = parse(text.as_bytes()).unwrap();
        let linux = config.spec.linux().as_ref().unwrap();
        linux.resources().as_ref().unwrap().pids().map(|pids| pids.limit())
    };
    assert_eq!(limit("1.2.1", r#"{"limit":0}"#), Some(0));
    assert_eq!(limit("1.3.0", r#"{"limit":0}"#), Some(1));
    assert_eq!(limit("1.3.0", r#"{"limit":-1}"#), Some(-1));
    // Not given, for the types no different.
    assert_eq!(limit("1.3.0", "{}"), Some(0));
}

#[test]
fn a_page_size_may_be_spelled_as_runc_reads_it() {
    let text = br#"{"ociVersion":"1.3.0","linux":{"resources":{"hugepageLimits":[
        {"pageSize":"1GB","limit":1},{"pagesize":"2MB","limit":1}]}}}"#;
    let config = parse(text).unwrap();
    let resources = config.spec.linux().as_ref().unwrap().resources().clone().unwrap();
    let limits = resources.hugepage_limits().clone().unwrap();
    assert_eq!(limits.iter().map(|l| l.page_size().as_str()).collect::<Vec<_>>(), ["1GB", "2MB"]);
}

#[test]
fn unknown_capabilities_are_left_out() {
    let text = br#"{"ociVersion":"1.3.0","process":{"cwd":"/","user":{"uid":0,"gid":0},
        "args":["sh"],"capabilities":{"bounding":["CAP_KILL","CAP_NO_SUCH"],"ambient":null}}}"#;
    let config = parse(text).unwrap();
    let sets = config.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
    let wrong = String::from_utf8_lossy(text).replace("\"CAP_NO_SUCH\"", "7");
    assert!(parse(wrong.as_bytes()).is_err());
}

/// The names that runtime-spec 1.3 gives to the values of its enumerations.
#[test]
fn every_name_of_the_specification_is_known() {
    let lists = [
        (
            r#""process":{"args":["a"],"cwd":"/","scheduler":{"policy":"@"}}"#,
            "SCHED_OTHER SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_ISO SCHED_IDLE SCHED_DEADLINE",
        ),
        (
            r#""process":{"args":["a"],"cwd":"/","scheduler":{"policy":"SCHED_OTHER","flags":["@"]}}"#,
            "SCHED_FLAG_RESET_ON_FORK SCHED_FLAG_RECLAIM SCHED_FLAG_DL_OVERRUN
             SCHED_FLAG_KEEP_POLICY SCHED_FLAG_KEEP_PARAMS SCHED_FLAG_UTIL_CLAMP_MIN
             SCHED_FLAG_UTIL_CLAMP_MAX",
        ),
        (
            r#""process":{"args":["a"],"cwd":"/","ioPriority":{"class":"@","priority":0}}"#,
            "IOPRIO_CLASS_RT IOPRIO_CLASS_BE IOPRIO_CLASS_IDLE",
        ),
        (r#""linux":{"namespaces":[{"type":"@"}]}"#, "pid network mount ipc uts user cgroup time"),
        (r#""linux":{"personality":{"domain":"@"}}"#, "LINUX LINUX32"),
        (
            r#""linux":{"memoryPolicy":{"mode":"@","nodes":"0"}}"#,
            "MPOL_DEFAULT MPOL_BIND MPOL_INTERLEAVE MPOL_WEIGHTED_INTERLEAVE MPOL_PREFERRED
             MPOL_PREFERRED_MANY MPOL_LOCAL",
        ),
        (
            r#""linux":{"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0","flags":["@"]}}"#,
            "MPOL_F_NUMA_BALANCING MPOL_F_RELATIVE_NODES MPOL_F_STATIC_NODES",
        ),
        (
            r#""linux":{"seccomp":{"defaultAction":"@"}}"#,
            "SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD SCMP_ACT_TRAP SCMP_ACT_ERRNO
             SCMP_ACT_TRACE SCMP_ACT_ALLOW SCMP_ACT_LOG SCMP_ACT_NOTIFY",
        ),
        (
            r#""linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","flags":["@"]}}"#,
            "SECCOMP_FILTER_FLAG_LOG SECCOMP_FILTER_FLAG_SPEC_ALLOW
             SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV SECCOMP_FILTER_FLAG_TSYNC",
        ),
        (
            r#""linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],
                "action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"@"}]}]}}"#,
            "SCMP_CMP_NE SCMP_CMP_LT SCMP_CMP_LE SCMP_CMP_EQ SCMP_CMP_GE SCMP_CMP_GT
             SCMP_CMP_MASKED_EQ",
        ),
        (
            r#""linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","architectures":["@"]}}"#,
            "SCMP_ARCH_X86 SCMP_ARCH_X86_64 SCMP_ARCH_X32 SCMP_ARCH_ARM SCMP_ARCH_AARCH64
             SCMP_ARCH_MIPS SCMP_ARCH_MIPS64 SCMP_ARCH_MIPS64N32 SCMP_ARCH_MIPSEL
             SCMP_ARCH_MIPSEL64 SCMP_ARCH_MIPSEL64N32 SCMP_ARCH_PPC SCMP_ARCH_PPC64
             SCMP_ARCH_PPC64LE SCMP_ARCH_S390 SCMP_ARCH_S390X SCMP_ARCH_PARISC
             SCMP_ARCH_PARISC64 SCMP_ARCH_RISCV64 SCMP_ARCH_LOONGARCH64 SCMP_ARCH_M68K
             SCMP_ARCH_SH SCMP_ARCH_SHEB",
        ),
    ];
    let mut unknown = Vec::new();
    for (rest, names) in lists {
        for name in names.split_whitespace() {
            let text = format!(r#"{{"ociVersion":"1.3.0",{}}}"#, rest.replace('@', name));
            if let Err(error) = parse(text.as_bytes()) {
                unknown.push(format!("{name}: {error}"));
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}
