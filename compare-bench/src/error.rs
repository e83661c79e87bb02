//! What can go wrong: the operation, its object, the cause.

use std::io;
use std::path::PathBuf;

/// An error of a measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: not a bundle's config: {source}", path = path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: no {field}", path = path.display())]
    Config { path: PathBuf, field: &'static str },
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("cannot start {program}: {source}", program = program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("{name} {step} failed ({status}): {stderr}")]
    Runtime { name: String, step: &'static str, status: String, stderr: String },
    #[error("{name}: its container (pid {pid}) was still there {seconds} s after kill")]
    Immortal { name: String, pid: i32, seconds: u64 },
    #[error("{name}: no pid in {path}", path = path.display())]
    PidFile { name: String, path: PathBuf },
    #[error("no hull beside compare-bench or in PATH (--hull names one)")]
    NoHull,
    #[error("{name}: not found")]
    NoPeer { name: String },
    #[error("qemu: needs --kernel, a kernel to boot")]
    NoKernel,
    #[error("the bundle's rootfs has no sleep to keep a container running")]
    NoHold,
    #[error("nothing to measure: no wall and no peer")]
    NoContender,
    #[error("interrupted")]
    Interrupted,
    #[error("cannot write the report: {0}")]
    Report(serde_json::Error),
}

impl Error {
    /// The last OS error of a call.
    pub fn last(what: &'static str) -> Self {
        Self::System { what, source: io::Error::last_os_error() }
    }
}
