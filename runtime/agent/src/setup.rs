//! Making the guest ready: modules, the mounts a kernel is seen by, the prepared tree, loopback.
//!
//! The initramfs cannot be the root that the `container` crate pivots away from
//! (pivot_root(2): "the rootfs cannot be pivoted"), so a tmpfs takes its place first, the way
//! switch_root(8) does it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hull_agent::link::{FS_TAG, TREE};
use nix::mount::{MsFlags, mount};
use thiserror::Error;

/// The new root, on the initramfs.
const ROOT: &str = "/root";

/// The list of modules to load, in order, one path a line (MODULE_ORDER of the kernel store).
const MODULES: &str = "/lib/modules/order";

/// A step of the set-up that failed.
#[derive(Debug, Error)]
#[error("{operation} {object}: {source}")]
pub struct Error {
    operation: &'static str,
    object: String,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(
    operation: &'static str,
    object: impl Into<String>,
) -> impl FnOnce(E) -> Error {
    let object = object.into();
    move |source| Error { operation, object, source: source.into() }
}

/// Where the guest's own runtime files are.
pub const RUN: &str = "/run/hull";

/// Makes the guest ready.
pub fn guest() -> Result<(), Error> {
    load_modules()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let private = flags | MsFlags::MS_NOEXEC;
    directory(ROOT)?;
    mount_on(ROOT, "tmpfs", "tmpfs", flags, Some("mode=0755"))?;
    for name in ["proc", "sys", "dev", "run", "tmp", &TREE[1..]] {
        directory(&format!("{ROOT}/{name}"))?;
    }
    mount_on(&format!("{ROOT}/proc"), "proc", "proc", private, None)?;
    mount_on(&format!("{ROOT}/sys"), "sysfs", "sysfs", private, None)?;
    mount_on(
        &format!("{ROOT}/dev"),
        "devtmpfs",
        "devtmpfs",
        MsFlags::MS_NOSUID,
        Some("mode=0755"),
    )?;
    mount_on(&format!("{ROOT}{TREE}"), FS_TAG, "virtiofs", MsFlags::empty(), None)?;
    read_ahead(&format!("{ROOT}{TREE}"));
    mount_on(&format!("{ROOT}/sys/fs/cgroup"), "cgroup2", "cgroup2", private, None)?;
    enter(ROOT)?;
    directory("/dev/pts")?;
    directory("/dev/shm")?;
    mount_on(
        "/dev/pts",
        "devpts",
        "devpts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("mode=0620,ptmxmode=0666"),
    )?;
    directory(RUN)?;
    loopback_up();
    Ok(())
}

/// Lets the kernel read more of a file at a time than the usual 128 KiB: each piece is a request
/// to the host, and files are read in order most often. Without it things are only slower.
fn read_ahead(tree: &str) {
    if let Ok(meta) = fs::metadata(tree) {
        let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
        let setting = format!("{ROOT}/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        let _ = fs::write(setting, "512");
    }
}

fn directory(path: &str) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("mkdir", path)(error))
        }
        _ => Ok(()),
    }
}

fn mount_on(
    target: &str,
    source: &str,
    kind: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), Error> {
    mount(Some(source), target, Some(kind), flags, data)
        .map_err(failed("mount", format!("{kind} on {target}")))
}

/// Makes `root` the root of everything: moved over `/`, it has the initramfs below it and can be
/// pivoted away from.
fn enter(root: &str) -> Result<(), Error> {
    std::env::set_current_dir(root).map_err(failed("chdir", root))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(failed("move mount", root))?;
    nix::unistd::chroot(".").map_err(failed("chroot", root))?;
    std::env::set_current_dir("/").map_err(failed("chdir", "/"))
}

/// Loads the modules of the initramfs; a kernel that has everything built in comes without.
fn load_modules() -> Result<(), Error> {
    let Ok(list) = fs::read_to_string(MODULES) else { return Ok(()) };
    for line in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let path = Path::new("/").join(line);
        let file = File::open(&path).map_err(failed("open", line))?;
        let parameters = CString::default();
        // SAFETY: `parameters` is a terminated string, the descriptor is open.
        let result = unsafe {
            libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0)
        };
        if result != 0 {
            let error = io::Error::last_os_error();
            // EEXIST: built in, or loaded for another module's sake. ENODEV: not for this CPU.
            if !matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENODEV)) {
                return Err(failed("load module", line)(error));
            }
        }
    }
    Ok(())
}

/// Loopback is down in a kernel that has just booted. Without IPv4 there is none: no error.
fn loopback_up() {
    // SAFETY: socket takes no memory.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return;
    }
    // SAFETY: the kernel just gave us this descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
}

/// Tells the kernel's log why the agent ends, and ends the guest.
pub fn last_words(text: &str) -> ! {
    // Level 0 passes a console that was told to be quiet.
    let line = format!("<0>hull-agent: {text}\n");
    for log in ["/dev/kmsg", "/root/dev/kmsg", "/dev/console"] {
        if let Ok(mut log) = fs::OpenOptions::new().write(true).open(log)
            && log.write_all(line.as_bytes()).is_ok()
        {
            break;
        }
    }
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    // Not PID 1, or not allowed to: PID 1's end is the kernel's end as well.
    std::process::exit(1)
}
