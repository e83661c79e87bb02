//! What the types cannot say: required fields, absolute paths, duplicates, ranges.
//!
//! Pure: nothing is looked up on the host. Whether a thing exists (the rootfs, a
//! namespace's path) is seen by who uses it. Field names are made only when they are needed.

use crate::{Config, Error, Problem, spec, vm};
use spec::{LinuxDeviceType, LinuxNamespaceType};
use std::path::{Component, Path};

const CONFIG: &str = "config.json";

/// Checks a parsed configuration.
pub fn validate(config: &Config) -> Result<(), Error> {
    let spec = &config.spec;
    check_version(spec.version())?;
    check_root(spec)?;
    match spec.process() {
        Some(process) => validate_process(CONFIG, "process.", process)?,
        None => return Err(invalid("process", Problem::Missing)),
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        check_mount(index, mount)?;
    }
    if let Some(hooks) = spec.hooks() {
        check_hooks(hooks)?;
    }
    if spec.annotations().iter().flatten().any(|(key, _)| key.is_empty()) {
        return Err(invalid("annotations", Problem::Empty));
    }
    for (field, present) in [
        ("windows", spec.windows().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("zos", spec.zos().is_some()),
    ] {
        if present {
            return Err(invalid(field, Problem::Unsupported("it is another platform's")));
        }
    }
    for (field, mappings) in
        [("uidMappings", spec.uid_mappings()), ("gidMappings", spec.gid_mappings())]
    {
        if mappings.as_ref().is_some_and(|mappings| !mappings.is_empty()) {
            let problem = Problem::Unsupported("those of a Linux container are below linux");
            return Err(invalid(field, problem));
        }
    }
    let none = Vec::new();
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref()).unwrap_or(&none);
    let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
    for (field, value) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let set = value.as_ref().is_some_and(|name| !name.is_empty());
        if set && !has(LinuxNamespaceType::Uts) {
            return Err(invalid(field, Problem::Needs("a private UTS namespace")));
        }
    }
    if let Some(linux) = linux {
        check_linux(linux, namespaces, has)?;
    }
    match &config.vm {
        Some(vm) => check_vm(vm),
        None => Ok(()),
    }
}

fn invalid(field: impl Into<String>, problem: Problem) -> Error {
    Error::Invalid { document: CONFIG, field: field.into(), problem }
}

/// `1.MINOR.PATCH`, with a pre-release or build as semantic versions have them.
fn check_version(version: &str) -> Result<(), Error> {
    if version.is_empty() {
        return Err(invalid("ociVersion", Problem::Missing));
    }
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = core.split('.');
    let number = |part: Option<&str>| {
        part.filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())).is_some()
    };
    let known = parts.next() == Some("1")
        && number(parts.next())
        && number(parts.next())
        && parts.next().is_none();
    if known { Ok(()) } else { Err(invalid("ociVersion", Problem::Version(version.to_owned()))) }
}

fn check_root(spec: &spec::Spec) -> Result<(), Error> {
    match spec.root() {
        None => Err(invalid("root", Problem::Missing)),
        Some(root) if root.path().as_os_str().is_empty() => {
            Err(invalid("root.path", Problem::Empty))
        }
        Some(_) => Ok(()),
    }
}

/// Checks a process; `prefix` is its JSON path with a trailing dot, or empty.
pub fn validate_process(
    document: &'static str,
    prefix: &str,
    process: &spec::Process,
) -> Result<(), Error> {
    let invalid = |field: &str, problem| {
        let field = format!("{prefix}{field}");
        Err(Error::Invalid { document, field, problem })
    };
    match process.args().as_deref() {
        None => return invalid("args", Problem::Missing),
        Some([]) => return invalid("args", Problem::Empty),
        Some(_) => {}
    }
    if process.command_line().is_some() {
        return invalid("commandLine", Problem::Unsupported("it is another platform's; use args"));
    }
    if process.cwd().as_os_str().is_empty() {
        return invalid("cwd", Problem::Empty);
    }
    if !process.cwd().is_absolute() {
        return invalid("cwd", Problem::NotAbsolute(process.cwd().clone()));
    }
    if let Some(size) = process.console_size() {
        for (field, value) in
            [("consoleSize.height", size.height()), ("consoleSize.width", size.width())]
        {
            if value > u64::from(u16::MAX) {
                let problem = Problem::Range { value: value.into(), min: 0, max: u16::MAX.into() };
                return invalid(field, problem);
            }
        }
    }
    if let Some(value) = process.oom_score_adj()
        && !(-1000..=1000).contains(&value)
    {
        let problem = Problem::Range { value: value.into(), min: -1000, max: 1000 };
        return invalid("oomScoreAdj", problem);
    }
    let limits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in limits.iter().enumerate() {
        if limits[..index].iter().any(|other| other.typ() == limit.typ()) {
            let field = format!("rlimits[{index}].type");
            return invalid(&field, Problem::Duplicate(limit.typ().to_string()));
        }
        if limit.soft() > limit.hard() {
            let max = limit.hard().into();
            let problem = Problem::Range { value: limit.soft().into(), min: 0, max };
            return invalid(&format!("rlimits[{index}].soft"), problem);
        }
    }
    if let Some(priority) = process.io_priority()
        && !(0..=7).contains(&priority.priority())
    {
        let problem = Problem::Range { value: priority.priority().into(), min: 0, max: 7 };
        return invalid("ioPriority.priority", problem);
    }
    Ok(())
}

fn check_mount(index: usize, mount: &spec::Mount) -> Result<(), Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    if mount.destination().as_os_str().is_empty() {
        return Err(invalid(field("destination"), Problem::Empty));
    }
    let mapped = |mappings: &Option<Vec<_>>| mappings.as_ref().is_some_and(|m| !m.is_empty());
    match (mapped(mount.uid_mappings()), mapped(mount.gid_mappings())) {
        (true, false) => {
            Err(invalid(field("uidMappings"), Problem::Needs("gidMappings beside it")))
        }
        (false, true) => {
            Err(invalid(field("gidMappings"), Problem::Needs("uidMappings beside it")))
        }
        _ => Ok(()),
    }
}

fn check_hooks(hooks: &spec::Hooks) -> Result<(), Error> {
    for (kind, list) in [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ] {
        for (index, hook) in list.iter().flatten().enumerate() {
            if !hook.path().is_absolute() {
                let problem = Problem::NotAbsolute(hook.path().clone());
                return Err(invalid(format!("hooks.{kind}[{index}].path"), problem));
            }
            if let Some(timeout) = hook.timeout()
                && timeout <= 0
            {
                let max = i64::MAX.into();
                let problem = Problem::Range { value: timeout.into(), min: 1, max };
                return Err(invalid(format!("hooks.{kind}[{index}].timeout"), problem));
            }
        }
    }
    Ok(())
}

fn check_linux(
    linux: &spec::Linux,
    namespaces: &[spec::LinuxNamespace],
    has: impl Fn(LinuxNamespaceType) -> bool,
) -> Result<(), Error> {
    for (index, namespace) in namespaces.iter().enumerate() {
        if namespaces[..index].iter().any(|other| other.typ() == namespace.typ()) {
            let what = format!("{} namespace", name(namespace.typ()));
            let field = format!("linux.namespaces[{index}].type");
            return Err(invalid(field, Problem::Duplicate(what)));
        }
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            absolute(path, || format!("linux.namespaces[{index}].path"))?;
        }
    }
    for (field, mappings) in
        [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())]
    {
        let mappings = mappings.as_deref().unwrap_or_default();
        if !mappings.is_empty() && !has(LinuxNamespaceType::User) {
            return Err(invalid(field, Problem::Needs("a user namespace")));
        }
        for (index, mapping) in mappings.iter().enumerate() {
            let room = u32::MAX - mapping.host_id().max(mapping.container_id());
            if mapping.size() == 0 || mapping.size() > room {
                let (value, max) = (mapping.size().into(), room.into());
                let problem = Problem::Range { value, min: 1, max };
                return Err(invalid(format!("{field}[{index}].size"), problem));
            }
        }
    }
    check_time_offsets(linux, &has)?;
    check_devices(linux)?;
    for (name, device) in linux.net_devices().iter().flatten() {
        let field = |rest: &str| format!("linux.netDevices.{name}{rest}");
        if !has(LinuxNamespaceType::Network) {
            return Err(invalid(field(""), Problem::Needs("a network namespace")));
        }
        interface(name, || field(""))?;
        if let Some(new) = device.name().as_ref().filter(|new| !new.is_empty()) {
            interface(new, || field(".name"))?;
        }
    }
    if let Some(value) = linux.rootfs_propagation().as_deref().filter(|value| !value.is_empty()) {
        const KNOWN: &[&str] = &["shared", "slave", "private", "unbindable"];
        if !KNOWN.contains(&value.strip_prefix('r').unwrap_or(value)) {
            let expected = "a propagation (shared, slave, private, unbindable, or r before it)";
            return Err(invalid("linux.rootfsPropagation", form(value, expected)));
        }
    }
    for (index, path) in linux.masked_paths().iter().flatten().enumerate() {
        absolute(Path::new(path), || format!("linux.maskedPaths[{index}]"))?;
    }
    // A relative one is taken from the container's root, as runc does.
    if let Some(index) = linux.readonly_paths().iter().flatten().position(String::is_empty) {
        return Err(invalid(format!("linux.readonlyPaths[{index}]"), Problem::Empty));
    }
    if let Some(seccomp) = linux.seccomp() {
        check_seccomp(seccomp)?;
    }
    if let Some(id) = linux.intel_rdt().as_ref().and_then(|rdt| rdt.clos_id().as_deref())
        && (id.is_empty() || id == "." || id == ".." || id.contains('/') || id.contains('\n'))
    {
        let expected = "the name of one directory";
        return Err(invalid("linux.intelRdt.closID", form(id, expected)));
    }
    if let Some(personality) = linux.personality()
        && personality.flags().as_ref().is_some_and(|flags| !flags.is_empty())
    {
        let problem = Problem::Unsupported("the specification defines no flags");
        return Err(invalid("linux.personality.flags", problem));
    }
    if linux.sysctl().iter().flatten().any(|(key, _)| key.is_empty()) {
        return Err(invalid("linux.sysctl", Problem::Empty));
    }
    match linux.resources() {
        Some(resources) => check_resources(resources),
        None => Ok(()),
    }
}

fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

fn absolute(path: &Path, field: impl Fn() -> String) -> Result<(), Error> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(invalid(field(), Problem::NotAbsolute(path.to_owned())))
    }
}

fn form(value: &str, expected: &'static str) -> Problem {
    Problem::Form { value: value.to_owned(), expected }
}

/// The kernel's rule for interface names (`dev_valid_name`).
fn interface(name: &str, field: impl Fn() -> String) -> Result<(), Error> {
    let bad = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.bytes().any(bad) {
        return Err(invalid(field(), form(name, "the name of a network device")));
    }
    Ok(())
}

fn check_time_offsets(
    linux: &spec::Linux,
    has: impl Fn(LinuxNamespaceType) -> bool,
) -> Result<(), Error> {
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let field = format!("linux.timeOffsets.{clock}");
        if !has(LinuxNamespaceType::Time) {
            return Err(invalid(field, Problem::Needs("a time namespace")));
        }
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return Err(invalid(field, form(clock, "monotonic or boottime")));
        }
        if let Some(nanos) = offset.nanosecs().filter(|&nanos| nanos > 999_999_999) {
            let problem = Problem::Range { value: nanos.into(), min: 0, max: 999_999_999 };
            return Err(invalid(format!("{field}.nanosecs"), problem));
        }
    }
    Ok(())
}

/// Bits of device numbers in the kernel.
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

fn check_devices(linux: &spec::Linux) -> Result<(), Error> {
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let field = |name: &str| format!("linux.devices[{index}].{name}");
        absolute(device.path(), || field("path"))?;
        if device.path().components().any(|part| part == Component::ParentDir) {
            return Err(invalid(field("path"), Problem::Climbs(device.path().clone())));
        }
        match device.typ() {
            LinuxDeviceType::A => {
                return Err(invalid(
                    field("type"),
                    form("a", "a kind of device node (b, c, u, p)"),
                ));
            }
            LinuxDeviceType::P => continue,
            _ => {}
        }
        for (name, value, max) in
            [("major", device.major(), MAX_MAJOR), ("minor", device.minor(), MAX_MINOR)]
        {
            if !(0..=max).contains(&value) {
                let problem = Problem::Range { value: value.into(), min: 0, max: max.into() };
                return Err(invalid(field(name), problem));
            }
        }
    }
    Ok(())
}

fn check_seccomp(seccomp: &spec::LinuxSeccomp) -> Result<(), Error> {
    let given = |text: &Option<_>| text.is_some();
    if given(seccomp.listener_metadata()) && seccomp.listener_path().is_none() {
        let problem = Problem::Needs("listenerPath");
        return Err(invalid("linux.seccomp.listenerMetadata", problem));
    }
    if let Some(path) = seccomp.listener_path() {
        absolute(path, || "linux.seccomp.listenerPath".to_owned())?;
    }
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        if rule.names().is_empty() {
            return Err(invalid(format!("linux.seccomp.syscalls[{index}].names"), Problem::Empty));
        }
        for (place, argument) in rule.args().iter().flatten().enumerate() {
            if argument.index() > 5 {
                let value = argument.index() as i128;
                let field = format!("linux.seccomp.syscalls[{index}].args[{place}].index");
                return Err(invalid(field, Problem::Range { value, min: 0, max: 5 }));
            }
        }
    }
    Ok(())
}

fn check_resources(resources: &spec::LinuxResources) -> Result<(), Error> {
    if let Some(idle) = resources.cpu().as_ref().and_then(|cpu| cpu.idle())
        && !(0..=1).contains(&idle)
    {
        let problem = Problem::Range { value: idle.into(), min: 0, max: 1 };
        return Err(invalid("linux.resources.cpu.idle", problem));
    }
    if let Some(swappiness) = resources.memory().as_ref().and_then(|memory| memory.swappiness())
        && swappiness > 100
    {
        let problem = Problem::Range { value: swappiness.into(), min: 0, max: 100 };
        return Err(invalid("linux.resources.memory.swappiness", problem));
    }
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        if let Some(access) = rule.access()
            // `a` adds nothing, but is in rules that runc takes.
            && !access.bytes().all(|byte| b"rwma".contains(&byte))
        {
            let field = format!("linux.resources.devices[{index}].access");
            return Err(invalid(field, form(access, "letters of rwm")));
        }
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = limit.page_size();
        let digits = size.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || !["KB", "MB", "GB"].contains(&&size[digits..]) {
            let field = format!("linux.resources.hugepageLimits[{index}].pageSize");
            return Err(invalid(field, form(size, "a page size (64KB, 2MB, 1GB)")));
        }
    }
    for (key, _) in resources.unified().iter().flatten() {
        if key.is_empty() || key.contains('/') {
            let expected = "the name of a cgroup file";
            return Err(invalid("linux.resources.unified", form(key, expected)));
        }
    }
    Ok(())
}

fn check_vm(vm: &vm::Vm) -> Result<(), Error> {
    if let Some(hypervisor) = &vm.hypervisor {
        absolute(&hypervisor.path, || "vm.hypervisor.path".to_owned())?;
    }
    if let Some(kernel) = &vm.kernel {
        absolute(&kernel.path, || "vm.kernel.path".to_owned())?;
        if let Some(initrd) = &kernel.initrd {
            absolute(initrd, || "vm.kernel.initrd".to_owned())?;
        }
    }
    if let Some(image) = &vm.image {
        absolute(&image.path, || "vm.image.path".to_owned())?;
        if !["raw", "qcow2", "vdi", "vmdk", "vhd"].contains(&image.format.as_str()) {
            let expected = "an image format (raw, qcow2, vdi, vmdk, vhd)";
            return Err(invalid("vm.image.format", form(&image.format, expected)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
