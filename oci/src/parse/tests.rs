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
fn unknown_capabilities_are_left_out() {
    let text = br#"{"ociVersion":"1.3.0","process":{"cwd":"/","user":{"uid":0,"gid":0},
        "args":["sh"],"capabilities":{"bounding":["CAP_KILL","CAP_NO_SUCH"],"ambient":null}}}"#;
    let config = parse(text).unwrap();
    let sets = config.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
    let wrong = String::from_utf8_lossy(text).replace("\"CAP_NO_SUCH\"", "7");
    assert!(parse(wrong.as_bytes()).is_err());
}
