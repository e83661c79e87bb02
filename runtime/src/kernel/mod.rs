//! The guest kernel store: which kernel a microVM boots, prepared once.
//!
//! A distribution's `vmlinuz` is unpacked to the ELF image that is booted
//! directly (`image`, `unpack`), the modules a guest needs are collected
//! (`modules`) into an initramfs (`cpio`), and both are kept by digest under
//! `/var/lib/hull/kernels/` (`store`). A vmlinux of one's own is used where it
//! lies. Nothing here knows of KVM or of a bundle.
//!
//! The agent is a part of the initramfs of its own, made anew at each start,
//! so that nothing has to be rebuilt when hull is updated.

pub mod cli;
mod cpio;
mod error;
pub mod host;
pub mod image;
mod modules;
mod store;
pub mod unpack;

use std::fs::File;
use std::path::{Path, PathBuf};

use microvm::InitrdPart;

pub use error::Error;
pub use store::{MODULE_ORDER, Store};

/// Where prepared kernels are kept unless told otherwise.
pub const STORE: &str = "/var/lib/hull/kernels";

/// Where the agent is if it is not beside this program.
const AGENT_DIR: &str = "/usr/libexec/hull";

/// What was asked for; everything absent means the newest kernel in `/boot`.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `vm.kernel.path`: a vmlinux or a vmlinuz of one's own.
    pub path: Option<PathBuf>,
    /// `vm.kernel.initrd`: unpacked before the agent's own part, in place of
    /// the modules hull would have collected.
    pub initrd: Option<PathBuf>,
}

/// A kernel that is ready to be booted.
#[derive(Debug)]
pub struct Prepared {
    /// The uncompressed ELF image.
    pub vmlinux: PathBuf,
    /// Modules (if any), then the agent as `/init`. One archive goes over
    /// several parts, so they are to be laid one after the other, each padded
    /// with zeros to a multiple of four bytes and no more.
    pub initrd_parts: Vec<InitrdPart>,
    /// What this kernel wants on its command line beside the monitor's own.
    pub cmdline_extra: String,
    /// SHA-256 of the vmlinuz it was made from, in hexadecimal; empty for an
    /// image that is used where it lies.
    pub digest: String,
    /// `uname -r` of it, where known.
    pub release: Option<String>,
}

/// The store of the calling user: [`STORE`] for root, else below the cache
/// directory (XDG base directories), if there is one.
pub fn default_store() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return STORE.into();
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    cache.map_or_else(|| STORE.into(), |cache| cache.join("hull/kernels"))
}

/// Finds or prepares the kernel that was asked for. `store` is the directory
/// of prepared kernels ([`default_store`]), `agent` the `hull-agent` binary
/// ([`find_agent`]).
///
/// Preparing for the first time says so once on stderr.
pub fn resolve(choice: &Choice, store: &Path, agent: &Path) -> Result<Prepared, Error> {
    let store = Store::at(store);
    let (path, installed) = match &choice.path {
        Some(path) => (path.clone(), false),
        None => (host::newest(Path::new(host::BOOT))?, true),
    };
    let mut notice = |release: &str| {
        eprintln!("hull: preparing the guest kernel {release} from {path:?}, once");
    };
    let entry = store.prepared(&path, installed, &mut notice)?;
    let mut parts = Vec::new();
    if let Some(initrd) = &choice.initrd {
        parts.push(file_part(initrd)?);
    } else if let Some(entry) = entry.as_ref().filter(|e| e.modules.is_some()) {
        parts.push(file_part(&store.file(entry, "modules.cpio"))?);
    }
    parts.extend(agent_parts(agent)?);
    Ok(match entry {
        Some(entry) => Prepared {
            vmlinux: store.file(&entry, "vmlinux"),
            initrd_parts: parts,
            cmdline_extra: String::new(),
            release: Some(entry.release).filter(|r| !r.is_empty()),
            digest: entry.digest,
        },
        None => Prepared {
            vmlinux: path,
            initrd_parts: parts,
            cmdline_extra: String::new(),
            digest: String::new(),
            release: None,
        },
    })
}

fn file_part(path: &Path) -> Result<InitrdPart, Error> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    Ok(InitrdPart::File(file, path.to_owned()))
}

/// The archive with the agent: its beginning, the binary itself, its end.
fn agent_parts(agent: &Path) -> Result<[InitrdPart; 3], Error> {
    let file = File::open(agent).map_err(|e| Error::io("open", agent, e))?;
    let meta = file.metadata().map_err(|e| Error::io("stat", agent, e))?;
    let mut archive = cpio::Archive::new();
    // What PID 1 needs before it has mounted anything.
    for directory in ["dev", "proc", "sys", "run"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    Ok([
        InitrdPart::Bytes(archive.begin_file("init", 0o755, meta.len())),
        InitrdPart::File(file, agent.to_owned()),
        InitrdPart::Bytes(cpio::Archive::new().finish()),
    ])
}

/// Finds the agent's binary: beside this program, else in `/usr/libexec/hull`.
pub fn find_agent() -> Result<PathBuf, Error> {
    let this = Path::new("/proc/self/exe");
    let exe = std::fs::read_link(this).map_err(|e| Error::io("read", this, e))?;
    let beside = exe.parent().unwrap_or(Path::new("/"));
    [beside, Path::new(AGENT_DIR)]
        .iter()
        .map(|dir| dir.join("hull-agent"))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::NoAgent(beside.to_owned(), AGENT_DIR.into()))
}
