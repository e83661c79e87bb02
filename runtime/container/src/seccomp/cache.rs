//! Compiled programs kept by digest: compiling Docker's profile costs as much as starting a
//! container.
//!
//! A file's name is the SHA-256 of the profile, libseccomp's version, the kernel's release and this
//! format's version. It is believed only if it and its directory belong to us and nobody else can
//! write to them, and if the digest inside fits the program. Anything else means compiling; a cache
//! never makes a container fail.

use super::{INSTRUCTION, MAX_INSTRUCTIONS};
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use oci::spec::LinuxSeccomp;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// To be raised with every change of what is compiled from a profile.
const VERSION: &str = "hull seccomp 1";
const DIGEST: usize = 32;

pub(super) struct Cache {
    directory: OwnedFd,
    name: String,
}

impl Cache {
    /// `None`: no cache that can be trusted.
    pub fn open(directory: &Path, seccomp: &LinuxSeccomp) -> Option<Cache> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = match nix::fcntl::open(directory, flags, Mode::empty()) {
            Err(nix::Error::ENOENT) => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).ok()?;
                nix::fcntl::open(directory, flags, Mode::empty()).ok()?
            }
            other => other.ok()?,
        };
        ours(&fstat(&fd).ok()?).then_some(())?;
        Some(Cache { directory: fd, name: key(seccomp)? })
    }

    pub fn get(&self) -> Option<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = openat(&self.directory, self.name.as_str(), flags, Mode::empty()).ok()?;
        let stat = fstat(&fd).ok()?;
        let regular = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        let size = usize::try_from(stat.st_size).ok()?;
        if !regular || !ours(&stat) || size > DIGEST + MAX_INSTRUCTIONS * INSTRUCTION {
            return None;
        }
        let mut content = Vec::with_capacity(size);
        File::from(fd).take(size as u64 + 1).read_to_end(&mut content).ok()?;
        let (digest, program) = content.split_at_checked(DIGEST)?;
        let whole = !program.is_empty() && program.len().is_multiple_of(INSTRUCTION);
        (whole && digest == Sha256::digest(program).as_slice()).then(|| program.to_vec())
    }

    /// Written beside and renamed, so that no reader sees half of it.
    pub fn put(&self, program: &[u8]) {
        let temporary = format!(".{}.{}", self.name, std::process::id());
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        // One left by a process of the same id that was killed.
        let _ = unlinkat(&self.directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        let Ok(fd) = openat(&self.directory, temporary.as_str(), flags, mode) else { return };
        let mut content = Sha256::digest(program).to_vec();
        content.extend_from_slice(program);
        let written = File::from(fd).write_all(&content).is_ok();
        if !written
            || renameat(&self.directory, temporary.as_str(), &self.directory, self.name.as_str())
                .is_err()
        {
            let _ = unlinkat(&self.directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Owned by us, and writable by nobody else.
fn ours(stat: &FileStat) -> bool {
    stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o022 == 0
}

fn key(seccomp: &LinuxSeccomp) -> Option<String> {
    let mut hash = Sha256::new();
    let library = libseccomp::ScmpVersion::current().ok()?;
    let kernel = nix::sys::utsname::uname().ok()?;
    let version = format!("{VERSION}\0{library}\0{}\0", kernel.release().to_string_lossy());
    hash.update(version.as_bytes());
    hash.update(serde_json::to_vec(seccomp).ok()?);
    let mut name = String::with_capacity(2 * DIGEST + 4);
    for byte in hash.finalize() {
        name.push_str(&format!("{byte:02x}"));
    }
    name.push_str(".bpf");
    Some(name)
}
