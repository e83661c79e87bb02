//! What can be read and asked of a host.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

/// A host: its files, and answers of its kernel.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    /// What `/dev/kvm` says, or why it says nothing.
    pub kvm: Result<Kvm, io::Error>,
    /// The version of Landlock, 0 if there is none.
    pub landlock: i64,
    /// `uname -r`.
    pub release: String,
}

/// What an open `/dev/kvm` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kvm {
    /// KVM_GET_API_VERSION; 12 for ever.
    pub api: i32,
    /// KVM_CAP_NR_VCPUS, the recommended number of vCPUs.
    pub vcpus: i32,
    /// KVM_CAP_IRQCHIP.
    pub irqchip: bool,
    /// KVM_CAP_IRQFD.
    pub irqfd: bool,
}

// linux/kvm.h
const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;
const KVM_CHECK_EXTENSION: libc::c_ulong = 0xae03;
const KVM_CAP_IRQCHIP: libc::c_ulong = 0;
const KVM_CAP_NR_VCPUS: libc::c_ulong = 9;
const KVM_CAP_IRQFD: libc::c_ulong = 32;

impl Host {
    /// The one we run on.
    pub fn this() -> Host {
        Host {
            root: PathBuf::from("/"),
            kvm: ask_kvm(),
            landlock: ask_landlock(),
            release: nix::sys::utsname::uname()
                .map(|names| names.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    /// One without anything.
    #[cfg(test)]
    pub fn empty() -> Host {
        Host::at(Path::new("/nonexistent"))
    }

    /// One whose files are below `root`.
    #[cfg(test)]
    pub fn at(root: &Path) -> Host {
        Host {
            root: root.to_owned(),
            kvm: Err(io::ErrorKind::NotFound.into()),
            landlock: 0,
            release: String::new(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text without the line end; none if it cannot be read.
    pub fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Whether a path is there.
    pub fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// A directory below this host's root, as a path.
    pub fn directory(&self, path: &str) -> PathBuf {
        self.path(path)
    }
}

fn ask_kvm() -> Result<Kvm, io::Error> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    let ask = |request, argument: libc::c_ulong| {
        // SAFETY: both requests take a number and touch no memory of ours.
        unsafe { libc::ioctl(kvm.as_raw_fd(), request, argument) }
    };
    let api = ask(KVM_GET_API_VERSION, 0);
    if api < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Kvm {
        api,
        vcpus: ask(KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS),
        irqchip: ask(KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) > 0,
        irqfd: ask(KVM_CHECK_EXTENSION, KVM_CAP_IRQFD) > 0,
    })
}

/// landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION.
fn ask_landlock() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag neither attributes nor a size are looked at.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION)
    };
    version.max(0)
}
