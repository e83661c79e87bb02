//! The guest kernel store: which kernel a microVM boots, prepared once.
//!
//! A distribution's `vmlinuz` is unpacked to the ELF image that is booted
//! directly, the modules a guest needs are collected into an initramfs, and
//! both are kept by digest under `/var/lib/hull/kernels/`. A kernel of one's
//! own is used as it is. Nothing here knows of KVM or of a bundle.

pub mod cli;
mod error;

use std::path::{Path, PathBuf};

pub use error::Error;

/// Where prepared kernels are kept unless told otherwise.
pub const STORE: &str = "/var/lib/hull/kernels";

/// What was asked for; everything absent means the newest kernel in `/boot`.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `vm.kernel.path`: a vmlinux or a vmlinuz of one's own.
    pub path: Option<PathBuf>,
    /// `vm.kernel.initrd`: unpacked below the agent's own part.
    pub initrd: Option<PathBuf>,
}

/// One piece of the initramfs. The pieces are to be laid into guest memory one
/// right after the other, in order and without gaps: a cpio archive may be
/// spread over several of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitrdPart {
    /// The whole content of a file.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A kernel that is ready to be booted.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The uncompressed ELF image.
    pub vmlinux: PathBuf,
    /// Modules (if any), then the agent as `/init`.
    pub initrd_parts: Vec<InitrdPart>,
    /// What this kernel wants on its command line beside the monitor's own.
    pub cmdline_extra: String,
    /// SHA-256 of the file it was made from, in hexadecimal; empty for an
    /// image that is used where it lies.
    pub digest: String,
    /// `uname -r` of it, where known.
    pub release: Option<String>,
}

/// Finds or prepares the kernel that was asked for. `store` is the directory
/// of prepared kernels ([`STORE`]); `agent` the `hull-agent` binary.
///
/// Preparing for the first time says so once on stderr.
pub fn resolve(_choice: &Choice, _store: &Path, _agent: &Path) -> Result<Prepared, Error> {
    unimplemented!()
}

/// Finds the agent's binary: beside this program, else in `/usr/libexec/hull`.
pub fn find_agent() -> Result<PathBuf, Error> {
    unimplemented!()
}
