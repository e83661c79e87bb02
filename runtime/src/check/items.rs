//! The judgement: each thing, what there is of it, what is lost without it.

use std::path::Path;

use super::host::Host;
use super::{Item, Status};
use crate::kernel::host as kernels;

type Found = (Status, String, Option<&'static str>);

/// A key, a title, and what looks for it.
type Look = (&'static str, &'static str, fn(&Host) -> Found);

/// Everything that is looked for, in the order it is printed.
pub fn all(host: &Host) -> Vec<Item> {
    let look: [Look; 21] = [
        ("kernel", "Kernel", kernel),
        ("kvm", "KVM", kvm),
        ("cpu_virtualisation", "CPU virtualisation", cpu),
        ("nested_paging", "Nested paging", nested_paging),
        ("guest_kernel", "Guest kernel", guest_kernel),
        ("cgroup", "cgroup", cgroup),
        ("namespaces", "Namespaces", namespaces),
        ("user_namespaces", "User namespaces", user_namespaces),
        ("seccomp", "seccomp", seccomp),
        ("lsm", "Security modules", lsm),
        ("landlock", "Landlock", landlock),
        ("overlay", "overlayfs", overlay),
        ("fuse", "FUSE", fuse),
        ("tun", "TUN/TAP", tun),
        ("vhost", "vhost", vhost),
        ("iommu", "IOMMU", iommu),
        ("huge_pages", "Huge pages", huge_pages),
        ("transparent_huge_pages", "Transparent huge pages", thp),
        ("ksm", "KSM", ksm),
        ("userfaultfd", "userfaultfd", userfaultfd),
        ("criu", "CRIU", criu),
    ];
    look.into_iter()
        .map(|(name, title, look)| {
            let (status, detail, lost) = look(host);
            Item { name, title, status, detail, lost: lost.map(str::to_owned) }
        })
        .collect()
}

fn yes(detail: impl Into<String>) -> Found {
    (Status::Yes, detail.into(), None)
}

fn partly(detail: impl Into<String>, lost: &'static str) -> Found {
    (Status::Partly, detail.into(), Some(lost))
}

fn no(detail: impl Into<String>, lost: &'static str) -> Found {
    (Status::No, detail.into(), Some(lost))
}

fn kernel(host: &Host) -> Found {
    let mut parts = host.release.split(['.', '-', '+']);
    let mut number = || parts.next().and_then(|n| n.parse::<u32>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) >= (5, 12) => yes(&host.release),
        (Some(_), Some(_)) => partly(
            &host.release,
            "before 5.12 there are no idmapped mounts; before 5.8 microVMs cannot share a tree",
        ),
        _ => no("unknown", "nothing is known to work"),
    }
}

/// The flags of the first processor in `/proc/cpuinfo`.
fn cpu_flags(host: &Host) -> Vec<String> {
    let text = host.read("/proc/cpuinfo").unwrap_or_default();
    let of = |key: &str| {
        let line =
            text.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key));
        let flags = line.and_then(|line| line.split_once(':')).map(|(_, flags)| flags);
        flags.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    [of("flags"), of("vmx flags")].concat()
}

fn kvm(host: &Host) -> Found {
    let lost = "the microVM wall; containers are not affected";
    let kvm = match &host.kvm {
        Ok(kvm) => kvm,
        Err(e) if host.has("/dev/kvm") => return no(format!("/dev/kvm: {e}"), lost),
        Err(_) => {
            return no("no /dev/kvm (kvm_intel or kvm_amd not loaded, or no virtualisation)", lost);
        }
    };
    if kvm.api != 12 || !kvm.irqchip || !kvm.irqfd {
        return no(
            format!("/dev/kvm of version {} without what hull uses (irqchip, irqfd)", kvm.api),
            lost,
        );
    }
    let nested = cpu_flags(host).iter().any(|f| f == "hypervisor");
    let on = if nested { "nested, in a virtual machine" } else { "on the bare machine" };
    let vcpus = kvm.vcpus;
    if host.has("/sys/module/kvm_pvm") {
        return partly(
            format!("kvm-pvm, virtualisation in software, {on}, {vcpus} vCPUs"),
            "stock guest kernels are emulated instruction by instruction and fail: \
             name a kernel that runs there (vm.kernel.path)",
        );
    }
    for (module, kind) in [("kvm_intel", "VMX"), ("kvm_amd", "SVM")] {
        if host.has(&format!("/sys/module/{module}")) {
            return yes(format!("{kind}, {on}, {vcpus} vCPUs"));
        }
    }
    partly(
        format!("of an unknown kind, {on}, {vcpus} vCPUs"),
        "nobody knows whether a stock guest kernel runs there",
    )
}

fn cpu(host: &Host) -> Found {
    let flags = cpu_flags(host);
    let has = |name: &str| flags.iter().any(|f| f == name);
    match (has("vmx"), has("svm")) {
        (true, _) => yes("VT-x (vmx)"),
        (_, true) => yes("AMD-V (svm)"),
        _ => no(
            "neither vmx nor svm",
            "KVM in hardware: enable it in the firmware, or nested virtualisation in the outer machine",
        ),
    }
}

fn nested_paging(host: &Host) -> Found {
    for (path, name) in [
        ("/sys/module/kvm_intel/parameters/ept", "EPT"),
        ("/sys/module/kvm_amd/parameters/npt", "NPT"),
    ] {
        match host.read(path).as_deref() {
            Some("Y" | "1") => return yes(format!("{name}, in use")),
            Some(_) => return partly(format!("{name} is off"), "speed: page tables are shadowed"),
            None => {}
        }
    }
    let flags = cpu_flags(host);
    match ["ept", "npt"].iter().find(|name| flags.iter().any(|f| f == *name)) {
        Some(name) => partly(
            format!("{name} in the processor, kvm_intel or kvm_amd not loaded"),
            "speed of microVMs, until the module is loaded",
        ),
        None => {
            no("neither EPT nor NPT", "speed: the microVM's page tables are shadowed in software")
        }
    }
}

fn guest_kernel(host: &Host) -> Found {
    let boot = host.directory(kernels::BOOT);
    match kernels::newest(&boot) {
        Ok(path) => match path.file_name().and_then(|n| n.to_str()) {
            Some(name) => yes(format!("{}/{name}", kernels::BOOT)),
            None => yes(path.display().to_string()),
        },
        Err(_) => {
            no("no vmlinuz-* in /boot", "microVMs without a kernel of their own (vm.kernel.path)")
        }
    }
}

fn cgroup(host: &Host) -> Found {
    let v2 = |at: &str| host.read(&format!("{at}/cgroup.controllers"));
    if let Some(controllers) = v2("/sys/fs/cgroup") {
        let wanted = ["cpu", "cpuset", "io", "memory", "pids"];
        let missing: Vec<&str> = wanted
            .into_iter()
            .filter(|w| !controllers.split_whitespace().any(|c| c == *w))
            .collect();
        return if missing.is_empty() {
            yes(format!("v2: {controllers}"))
        } else {
            partly(
                format!("v2: {controllers}; not {}", missing.join(", ")),
                "limits of the missing controllers are refused",
            )
        };
    }
    // hierarchy:controllers:path
    let own = host.read("/proc/self/cgroup").unwrap_or_default();
    let v1: Vec<&str> = own
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .filter(|controllers| !controllers.is_empty() && !controllers.contains('='))
        .collect();
    match (v1.is_empty(), v2("/sys/fs/cgroup/unified")) {
        (true, _) => no("not mounted", "all limits, and freezing: nothing can be contained"),
        (false, Some(controllers)) => partly(
            format!("hybrid: v1 {}; v2 {}", v1.join(" "), none_if_empty(&controllers)),
            "memory.high, io.latency and what else only v2 has; delegation to users",
        ),
        (false, None) => partly(
            format!("v1: {}", v1.join(" ")),
            "what only v2 has, killing a cgroup at once, delegation to users",
        ),
    }
}

fn none_if_empty(text: &str) -> &str {
    if text.is_empty() { "(none)" } else { text }
}

fn namespaces(host: &Host) -> Found {
    let wanted = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let (there, missing): (Vec<&str>, Vec<&str>) =
        wanted.into_iter().partition(|name| host.has(&format!("/proc/self/ns/{name}")));
    match (there.is_empty(), missing.is_empty()) {
        (_, true) => yes(there.join(" ")),
        (true, _) => no("none", "the container wall"),
        _ => partly(
            format!("{}; not {}", there.join(" "), missing.join(" ")),
            "bundles that ask for the missing ones are refused",
        ),
    }
}

fn user_namespaces(host: &Host) -> Found {
    let lost = "rootless containers, and uid mappings";
    if !host.has("/proc/self/ns/user") {
        return no("not in the kernel", lost);
    }
    let max = host.read("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if max == "0" {
        return no("user.max_user_namespaces is 0", lost);
    }
    let restricted = [
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone is 0",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns is 1",
        ),
    ];
    for (path, value, reason) in restricted {
        if host.read(path).as_deref() == Some(value) {
            return partly(format!("up to {max}, {reason}"), "rootless containers");
        }
    }
    yes(format!("up to {max}"))
}

fn seccomp(host: &Host) -> Found {
    match host.read("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.split_whitespace().any(|a| a == "user_notif") => yes(actions),
        Some(actions) => partly(actions, "filters that notify a listener"),
        None => no(
            "not in the kernel",
            "system call filters: bundles that have one are refused, the monitor is not confined",
        ),
    }
}

fn lsm(host: &Host) -> Found {
    let on = host.read("/sys/module/apparmor/parameters/enabled").as_deref() == Some("Y");
    let found: Vec<&str> = [
        ("AppArmor", on),
        ("SELinux", host.has("/sys/fs/selinux/enforce")),
        ("Smack", host.has("/sys/fs/smackfs")),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect();
    if found.is_empty() {
        no(
            "neither AppArmor nor SELinux",
            "process.apparmorProfile and process.selinuxLabel are refused",
        )
    } else {
        yes(host.read("/sys/kernel/security/lsm").unwrap_or_else(|| found.join(" ")))
    }
}

fn landlock(host: &Host) -> Found {
    match host.landlock {
        0 => no("not in the kernel, or not enabled", "one of the layers around the monitor"),
        version => yes(format!("version {version}")),
    }
}

/// Whether `/proc/filesystems` has it.
fn filesystem(host: &Host, name: &str) -> bool {
    let text = host.read("/proc/filesystems").unwrap_or_default();
    text.lines().any(|line| line.split_whitespace().last() == Some(name))
}

fn overlay(host: &Host) -> Found {
    if filesystem(host, "overlay") {
        yes("in the kernel")
    } else {
        no(
            "not in /proc/filesystems (not loaded, or not built)",
            "overlay mounts, and engines' default storage",
        )
    }
}

fn fuse(host: &Host) -> Found {
    if host.has("/dev/fuse") && filesystem(host, "fuse") {
        yes("/dev/fuse")
    } else {
        no("no /dev/fuse", "file systems in user space; microVM shares do not need it")
    }
}

fn tun(host: &Host) -> Found {
    if host.has("/dev/net/tun") {
        yes("/dev/net/tun")
    } else {
        no("no /dev/net/tun", "the network of microVMs")
    }
}

fn vhost(host: &Host) -> Found {
    let found: Vec<&str> = ["vhost-net", "vhost-vsock", "vhost-vdpa"]
        .into_iter()
        .filter(|name| host.has(&format!("/dev/{name}")))
        .collect();
    if found.contains(&"vhost-net") {
        yes(found.join(" "))
    } else {
        no("no /dev/vhost-net", "network speed of microVMs: packets go through the monitor")
    }
}

fn iommu(host: &Host) -> Found {
    let groups = host.list("/sys/kernel/iommu_groups").len();
    match (groups, host.has("/dev/vfio/vfio")) {
        (0, _) => no("no groups", "handing devices to microVMs"),
        (n, true) => yes(format!("{n} groups, VFIO")),
        (n, false) => partly(format!("{n} groups, vfio not loaded"), "handing devices to microVMs"),
    }
}

fn huge_pages(host: &Host) -> Found {
    let text = host.read("/proc/meminfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
    };
    match (value("HugePages_Total:"), value("HugePages_Free:"), value("Hugepagesize:")) {
        (Some(total), free, Some(size)) if total > 0 => {
            yes(format!("{} of {total} free, {size} KiB each", free.unwrap_or(0)))
        }
        (Some(_), _, Some(size)) => no(
            format!("none reserved, {size} KiB each"),
            "microVMs on reserved huge pages (vm.nr_hugepages)",
        ),
        _ => no("not in the kernel", "microVMs on reserved huge pages"),
    }
}

fn thp(host: &Host) -> Found {
    let modes = host.read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let mode = modes.split(['[', ']']).nth(1).unwrap_or_default();
    match mode {
        "always" | "madvise" => yes(mode),
        "" => no("not in the kernel", "speed of microVMs: small pages behind guest memory"),
        other => no(other, "speed of microVMs: small pages behind guest memory"),
    }
}

fn ksm(host: &Host) -> Found {
    let lost = "equal pages of microVMs are not shared";
    match host.read("/sys/kernel/mm/ksm/run").as_deref() {
        Some("1") => yes("running"),
        Some(_) => partly("there, not running (/sys/kernel/mm/ksm/run)", lost),
        None => no("not in the kernel", lost),
    }
}

fn userfaultfd(host: &Host) -> Found {
    if host.has("/dev/userfaultfd") || host.has("/proc/sys/vm/unprivileged_userfaultfd") {
        yes("in the kernel")
    } else {
        no("not in the kernel", "restoring and moving microVMs page by page")
    }
}

fn criu(host: &Host) -> Found {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let found = path
        .split(':')
        .filter(|dir| Path::new(dir).is_absolute())
        .map(|dir| format!("{dir}/criu"))
        .find(|path| host.has(path));
    match found {
        Some(path) => yes(path),
        None => no("not installed", "checkpoint and restore of containers"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::host::Kvm;
    use super::*;

    /// A host with these files.
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::at(dir.path());
        (dir, host)
    }

    const KVM: Kvm = Kvm { api: 12, vcpus: 4, irqchip: true, irqfd: true };

    #[test]
    fn the_kind_of_kvm_is_told() {
        let bare = ("/proc/cpuinfo", "flags\t\t: fpu vmx\nvmx flags\t: ept\n");
        let inner = ("/proc/cpuinfo", "flags\t\t: fpu svm hypervisor\n");
        let none = ("/proc/cpuinfo", "flags\t\t: fpu hypervisor\n");
        for (files, status, words) in [
            (vec![bare, ("/sys/module/kvm_intel/x", "")], Status::Yes, "VMX, on the bare"),
            (vec![inner, ("/sys/module/kvm_amd/x", "")], Status::Yes, "SVM, nested"),
            (vec![none, ("/sys/module/kvm_pvm/x", "")], Status::Partly, "kvm-pvm"),
            (vec![none], Status::Partly, "unknown kind"),
        ] {
            let (_dir, mut host) = host(&files);
            host.kvm = Ok(KVM);
            let (found, detail, _) = kvm(&host);
            assert_eq!(found, status, "{detail}");
            assert!(detail.contains(words), "{detail}");
        }
        let (_dir, mut host) = host(&[("/dev/kvm", "")]);
        host.kvm = Err(std::io::Error::from_raw_os_error(libc::EACCES));
        let (status, detail, _) = kvm(&host);
        assert_eq!(status, Status::No);
        assert!(detail.contains("Permission denied"), "{detail}");
    }

    #[test]
    fn nested_paging_is_told_by_module_and_processor() {
        let status = |files: &[(&str, &str)]| nested_paging(&host(files).1).0;
        assert_eq!(status(&[("/sys/module/kvm_intel/parameters/ept", "Y\n")]), Status::Yes);
        assert_eq!(status(&[("/sys/module/kvm_amd/parameters/npt", "0\n")]), Status::Partly);
        assert_eq!(status(&[("/proc/cpuinfo", "vmx flags : vnmi ept\n")]), Status::Partly);
        assert_eq!(status(&[]), Status::No);
    }

    #[test]
    fn the_three_layouts_of_cgroups_are_told_apart() {
        let v1 = ("/proc/self/cgroup", "4:memory:/\n2:cpu,cpuacct:/x\n1:name=systemd:/\n0::/\n");
        let told = |files: &[(&str, &str)]| {
            let (status, detail, _) = cgroup(&host(files).1);
            (status, detail)
        };
        let (status, detail) =
            told(&[("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids rdma\n")]);
        assert_eq!((status, detail.as_str()), (Status::Yes, "v2: cpuset cpu io memory pids rdma"));
        let (status, detail) = told(&[("/sys/fs/cgroup/cgroup.controllers", "cpu pids\n")]);
        assert_eq!(status, Status::Partly);
        assert!(detail.ends_with("not cpuset, io, memory"), "{detail}");
        let (_, detail) = told(&[v1, ("/sys/fs/cgroup/unified/cgroup.controllers", "")]);
        assert_eq!(detail, "hybrid: v1 memory cpu,cpuacct; v2 (none)");
        assert_eq!(told(&[v1]).1, "v1: memory cpu,cpuacct");
        assert_eq!(told(&[]).0, Status::No);
    }

    #[test]
    fn limits_on_user_namespaces_are_named() {
        let told = |files: &[(&str, &str)]| {
            let all = [&[("/proc/self/ns/user", "")], files].concat();
            let (status, detail, _) = user_namespaces(&host(&all).1);
            (status, detail)
        };
        let max = ("/proc/sys/user/max_user_namespaces", "1000\n");
        assert_eq!(told(&[max]), (Status::Yes, "up to 1000".to_owned()));
        assert_eq!(told(&[("/proc/sys/user/max_user_namespaces", "0\n")]).0, Status::No);
        let (status, detail) = told(&[max, ("/proc/sys/kernel/unprivileged_userns_clone", "0\n")]);
        assert_eq!(status, Status::Partly);
        assert!(detail.contains("unprivileged_userns_clone"), "{detail}");
    }

    #[test]
    fn memory_features_are_read_as_the_kernel_writes_them() {
        let meminfo = "MemTotal: 1 kB\nHugePages_Total:      8\nHugePages_Free:       3\nHugepagesize:       2048 kB\n";
        let (_dir, host) = host(&[
            ("/proc/meminfo", meminfo),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("/sys/kernel/mm/ksm/run", "0\n"),
        ]);
        assert_eq!(huge_pages(&host).1, "3 of 8 free, 2048 KiB each");
        assert_eq!(thp(&host), yes("madvise"));
        assert_eq!(ksm(&host).0, Status::Partly);
    }
}
