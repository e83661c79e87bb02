//! A system container: a whole distribution, its init as the first process.

use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tests::{Bundle, Call, Container, Place, cgroup, subject, terminal};

subject! {
    container: debian_boots_to_a_login_prompt_and_stops_cleanly;
}

/// An emulated machine's systemd takes its time.
const BOOT: Duration = Duration::from_secs(120);

/// What systemd needs to boot, and a system's user to administer it.
const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TTY_CONFIG",
];

/// A Debian that may be written to, and is forgotten.
struct Debian<'a> {
    place: &'a Place,
    root: std::path::PathBuf,
}

impl Debian<'_> {
    fn new<'a>(place: &'a Place, lower: &Path) -> Debian<'a> {
        let top = place.new_dir("debian");
        let mount = |args: &[&str]| Call::new(&place.dir, "mount").args(args).arg(&top);
        mount(&["-t", "tmpfs", "debian"]).ok();
        let (upper, work) = (place.new_dir("debian/upper"), place.new_dir("debian/work"));
        let root = place.new_dir("debian/root");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let mount =
            Call::new(&place.dir, "mount").args(["-t", "overlay", "debian", "-o", &options]);
        mount.arg(&root).ok();
        Debian { place, root }
    }

    fn bundle(&self) -> Bundle {
        let mut bundle = self
            .place
            .bundle()
            .set("/root/path", json!(self.root))
            .args(&["/sbin/init"])
            .env("container=hull")
            .env("TERM=linux")
            .capabilities(CAPABILITIES)
            .set("/process/terminal", json!(true))
            .set("/process/noNewPrivileges", json!(false))
            .set("/linux/readonlyPaths", json!([]))
            .namespace("cgroup", None)
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "rw"])
            .mount("/run", "tmpfs", "run", &["nosuid", "nodev", "mode=755"])
            .mount("/tmp", "tmpfs", "tmp", &["nosuid", "nodev", "mode=1777"]);
        if has_systemd() {
            let path = format!("machine.slice:hull:{}", self.place.id);
            bundle = bundle.set("/linux/cgroupsPath", json!(path));
        }
        bundle
    }

    fn forget(self) {
        let umount = |path: &Path| Call::new(&self.place.dir, "umount").arg(path).ok();
        umount(&self.root);
        umount(&self.place.path("debian"));
    }
}

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

fn debian_boots_to_a_login_prompt_and_stops_cleanly(place: &Place) {
    let Some(lower) = &place.debian else { place.cannot("needs HULL_TEST_DEBIAN") };
    if !cgroup::is_v2() {
        place.cannot("Debian's systemd wants the whole of cgroup v2");
    }
    let debian = Debian::new(place, lower);
    let bundle = debian.bundle();
    bundle.save();
    let (mut outside, inside) = terminal::open();
    let hull = if has_systemd() { place.hull().arg("--systemd-cgroup") } else { place.hull() };
    let running = hull
        .args(["run", "--bundle"])
        .arg(&bundle.dir)
        .arg(&place.id)
        .stdin(inside.try_clone().expect("a second end"))
        .stdout(inside)
        .patience(BOOT)
        .spawn();
    let container = Container::named(place, &place.id);

    outside.shows_within(BOOT, "login: ");
    outside.forgets();
    outside.types("root\n");
    outside.shows("# ");
    outside.types("tty; exit\n");
    outside.shows("/dev/console");

    // It is well, and every service has a group with what systemd wants of it.
    container.sh("systemctl is-system-running --wait").ok().prints("running");
    let groups = container.sh("cd /sys/fs/cgroup && cat cgroup.subtree_control; cat init.scope/cgroup.procs; ls system.slice");
    for words in ["memory", "pids", "1\n", "dbus.service"] {
        groups.ok().says(words);
    }

    let limits = ["--memory", "268435456", "--pids-limit", "333", "--cpu-quota", "80000"];
    place.hull().arg("update").args(limits).arg(&place.id).ok();
    let seen = "cd /sys/fs/cgroup && cat memory.max pids.max cpu.max";
    container.sh(seen).ok().prints("268435456\n333\n80000 100000");

    // What systemd takes for "halt" (systemd(1)); the kernel tells of a halt by this signal (reboot(2)).
    container.kill("RTMIN+3");
    let end = running.wait();
    outside.shows("Halting system");
    end.exits(128 + libc::SIGINT);
    place.call(&["state", &place.id]).complains(&["does not exist"]);
    debian.forget();
}
