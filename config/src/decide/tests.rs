use super::*;

fn config(extra: &str) -> oci::Config {
    let text = format!(r#"{{"ociVersion":"1.3.0","root":{{"path":"rootfs"}}{extra}}}"#);
    oci::parse(text.as_bytes()).unwrap()
}

fn decide_with(config: &oci::Config, file: Option<&HullToml>) -> Result<Decision, Error> {
    decide(&Inputs { flags: &Flags::default(), argv0: None, config, file })
}

fn wall_of(flag: Option<WallKind>, argv0: &str, extra: &str, file: &str) -> (WallKind, Source) {
    let decision = decide(&Inputs {
        flags: &Flags { isolation: flag },
        argv0: Some(OsStr::new(argv0)),
        config: &config(extra),
        file: Some(&HullToml::parse(file).unwrap()),
    })
    .unwrap();
    (decision.wall, decision.source)
}

#[test]
fn the_strongest_source_chooses_the_wall() {
    use WallKind::{Container, Microvm};
    let vm = r#","vm":{}"#;
    let annotated = r#","vm":{},"annotations":{"run.hull.isolation":"container"}"#;
    let toml = r#"isolation = "microvm""#;
    assert_eq!(wall_of(None, "hull", "", ""), (Container, Source::Default));
    assert_eq!(wall_of(None, "hull", "", toml), (Microvm, Source::File));
    assert_eq!(wall_of(None, "/usr/bin/hull-vm", "", ""), (Microvm, Source::Argv0));
    assert_eq!(wall_of(None, "hull", vm, ""), (Microvm, Source::Vm));
    assert_eq!(wall_of(None, "hull-vm", annotated, toml), (Container, Source::Annotation));
    assert_eq!(wall_of(Some(Microvm), "hull", annotated, ""), (Microvm, Source::Flag));
    assert_eq!(wall_of(Some(Container), "hull-vm", vm, toml), (Container, Source::Flag));
}

#[test]
fn an_unknown_isolation_is_refused() {
    let config = config(r#","annotations":{"run.hull.isolation":"vm"}"#);
    let error = decide_with(&config, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"run.hull.isolation: "vm" is not an isolation (container and microvm are)"#
    );
}

#[test]
fn sizes_come_from_annotation_then_vm_object_then_file_then_limits() {
    let limits = r#""linux":{"resources":{"memory":{"limit":134217728},"cpu":{"quota":150000,"period":100000}}}"#;
    let file = HullToml::parse("[microvm]\nvcpus = 4\nmemory = \"256M\"").unwrap();
    let object = r#""vm":{"hwConfig":{"vcpus":3,"memory":201326592}}"#;
    let annotation = r#""annotations":{"run.hull.vcpus":"5","run.hull.memory":"1G"}"#;
    let size = |extra: String, file| decide_with(&config(&extra), file).unwrap().vm;

    let vm = size(format!(r#","vm":{{}},{limits}"#), None);
    assert_eq!(vm, VmSize { vcpus: 2, memory: (128 << 20) + crate::MEMORY_OVERHEAD });
    let vm = size(format!(r#","vm":{{}},{limits}"#), Some(&file));
    assert_eq!(vm, VmSize { vcpus: 4, memory: 256 << 20 });
    let vm = size(format!(",{object},{limits}"), Some(&file));
    assert_eq!(vm, VmSize { vcpus: 3, memory: 192 << 20 });
    let vm = size(format!(",{object},{annotation},{limits}"), Some(&file));
    assert_eq!(vm, VmSize { vcpus: 5, memory: 1 << 30 });
    let vm = size(r#","vm":{}"#.into(), None);
    assert_eq!(vm, VmSize { vcpus: 1, memory: crate::DEFAULT_MEMORY });
}

#[test]
fn memory_is_rounded_up_to_large_pages() {
    let config = config(r#","vm":{"hwConfig":{"memory":100000001}}"#);
    assert_eq!(decide_with(&config, None).unwrap().vm.memory, 48 * (2 << 20));
}

#[test]
fn sizes_out_of_range_are_refused_by_name() {
    for (extra, message) in [
        (r#","vm":{"hwConfig":{"vcpus":0}}"#, "vm.hwConfig.vcpus: \"0\""),
        (r#","vm":{"hwConfig":{"vcpus":33}}"#, "vm.hwConfig.vcpus: \"33\""),
        (r#","annotations":{"run.hull.vcpus":"-1"}"#, "run.hull.vcpus: \"-1\""),
        (r#","annotations":{"run.hull.vcpus":"many"}"#, "run.hull.vcpus: \"many\""),
        (r#","vm":{"hwConfig":{"memory":1048576}}"#, "vm.hwConfig.memory: 1048576 bytes"),
        (r#","vm":{"hwConfig":{"memory":18446744073709551615}}"#, "vm.hwConfig.memory: 18446"),
        (r#","annotations":{"run.hull.memory":"lots"}"#, "run.hull.memory: \"lots\""),
        (r#","vm":{"hypervisor":{"path":"/hull","parameters":["turbo"]}}"#, "vm.hypervisor.p"),
    ] {
        let error = decide_with(&config(extra), None).unwrap_err().to_string();
        assert!(error.starts_with(message), "{extra}: {error}");
    }
}

#[test]
fn what_a_microvm_cannot_honour_is_refused_by_name() {
    for (extra, field) in [
        (r#"{"hypervisor":{"path":"/usr/bin/qemu-system-x86_64"}}"#, "vm.hypervisor.path"),
        (r#"{"image":{"path":"/i","format":"raw"}}"#, "vm.image"),
        (r#"{"hwConfig":{"deviceTree":"/a.dtb"}}"#, "vm.hwConfig.deviceTree"),
        (r#"{"hwConfig":{"dtdevs":["/x"]}}"#, "vm.hwConfig.dtdevs"),
        (r#"{"hwConfig":{"irqs":[3]}}"#, "vm.hwConfig.irqs"),
        (r#"{"hwConfig":{"iomems":[{"firstMFN":1,"nrMFNs":2}]}}"#, "vm.hwConfig.iomems"),
    ] {
        let error = decide_with(&config(&format!(r#","vm":{extra}"#)), None).unwrap_err();
        assert!(matches!(error, Error::Unsupported { field: f, .. } if f == field), "{error}");
    }
}

#[test]
fn the_vm_object_does_not_matter_inside_a_container() {
    let config = config(r#","vm":{"hypervisor":{"path":"/usr/bin/qemu"}}"#);
    let flags = Flags { isolation: Some(WallKind::Container) };
    let inputs = Inputs { flags: &flags, argv0: None, config: &config, file: None };
    assert_eq!(decide(&inputs).unwrap().wall, WallKind::Container);
}

#[test]
fn an_initrd_goes_with_a_kernel_of_its_own_or_a_weaker_source() {
    let file = HullToml::parse("[microvm]\nkernel = \"/k\"\ninitrd = \"/i\"").unwrap();
    let annotated = config(r#","vm":{},"annotations":{"run.hull.kernel":"/mine"}"#);
    let kernel = decide_with(&annotated, Some(&file)).unwrap().kernel;
    assert_eq!(kernel.path.as_deref(), Some(Path::new("/mine")));
    assert_eq!(kernel.initrd, None);

    let annotated = config(r#","vm":{},"annotations":{"run.hull.initrd":"/mine"}"#);
    let kernel = decide_with(&annotated, Some(&file)).unwrap().kernel;
    assert_eq!(kernel.path.as_deref(), Some(Path::new("/k")));
    assert_eq!(kernel.initrd.as_deref(), Some(Path::new("/mine")));

    let error = decide_with(&annotated, None).unwrap_err();
    assert_eq!(error, Error::InitrdWithoutKernel { field: Annotation::INITRD });
}

#[test]
fn a_relative_kernel_is_refused() {
    let config = config(r#","vm":{"kernel":{"path":"vmlinux"}}"#);
    let error = decide_with(&config, None).unwrap_err();
    assert_eq!(error.to_string(), "vm.kernel.path: \"vmlinux\" must be an absolute path");
}

#[test]
fn kernel_parameters_are_added_but_not_the_agents_place() {
    let good = config(r#","vm":{"kernel":{"path":"/k","parameters":["quiet","mitigations=off"]}}"#);
    assert_eq!(decide_with(&good, None).unwrap().kernel.parameters, ["quiet", "mitigations=off"]);
    for parameter in ["init=/bin/sh", "rdinit=/x", "virtio_mmio.device=4K@0:5", "--", "a\\nb"] {
        let bad =
            config(&format!(r#","vm":{{"kernel":{{"path":"/k","parameters":["{parameter}"]}}}}"#));
        let error = decide_with(&bad, None).unwrap_err();
        assert!(matches!(error, Error::KernelParameter { .. }), "{parameter}: {error}");
    }
}

#[test]
fn the_file_sets_the_boot_timeout() {
    let file = HullToml::parse("[microvm]\nboot_timeout = 5").unwrap();
    let timeout = |file| decide_with(&config(r#","vm":{}"#), file).unwrap().boot_timeout;
    assert_eq!(timeout(Some(&file)), Duration::from_secs(5));
    assert_eq!(timeout(None), crate::DEFAULT_BOOT_TIMEOUT);
}

#[test]
fn an_unknown_key_of_the_file_is_an_error() {
    for text in ["isolatoin = \"microvm\"", "[microvm]\nmemroy = \"1G\"", "isolation = \"vm\"", "="]
    {
        assert!(matches!(HullToml::parse(text), Err(Error::File { .. })), "{text}");
    }
}
