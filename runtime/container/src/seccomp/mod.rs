//! System call filters: `linux.seccomp` compiled to a BPF program by libseccomp, cached by digest.
//!
//! [`compile`] runs on the parent's side, before the clone; [`Filter::install`] in the child, as
//! late as possible; [`send_listener`] hands a notifying filter's listener to who asked for it.
//!
//! Sources: `seccomp(2)`, "Seccomp" of the runtime specification, libseccomp's manual pages.

mod cache;
mod compile;
mod enosys;
mod evaluate;
pub mod features;
mod notify;

pub use notify::send_listener;

use oci::spec::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: libc::c_uint = 1;
/// `SECCOMP_FILTER_FLAG_*`.
const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// `BPF_MAXINSNS`: the longest program the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;
/// `sizeof(struct sock_filter)`.
const INSTRUCTION: usize = 8;

/// A filter could not be made or installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field that cannot be honoured.
    #[error("linux.seccomp.{field}: {reason}")]
    Field {
        /// Path below `linux.seccomp`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// libseccomp refused something.
    #[error("linux.seccomp: {operation}: {source}")]
    Library {
        /// What was tried.
        operation: String,
        /// libseccomp's words.
        source: libseccomp::error::SeccompError,
    },
    /// The compiled program is longer than the kernel takes.
    #[error("linux.seccomp: the filter has {0} instructions, the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong(usize),
    /// A system call failed.
    #[error("linux.seccomp: {operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn field(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Field { field: field.into(), reason: reason.into() }
    }

    fn io(operation: impl Into<String>, source: io::Error) -> Error {
        Error::Io { operation: operation.into(), source }
    }
}

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `struct sock_filter[]`, native byte order.
    program: Vec<u8>,
    flags: u32,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
}

/// Compiles a profile, or takes it from the cache.
pub fn compile(seccomp: &LinuxSeccomp, cache_dir: Option<&Path>) -> Result<Filter> {
    let notifies = check(seccomp)?;
    let cache = cache_dir.and_then(|directory| cache::Cache::open(directory, seccomp));
    let program = match cache.as_ref().and_then(cache::Cache::get) {
        Some(program) => program,
        None => {
            let program = compile::compile(seccomp)?;
            if let Some(cache) = &cache {
                cache.put(&program);
            }
            program
        }
    };
    let flags = flags(seccomp, notifies);
    tracing::debug!("seccomp filter flags: {flags}");
    Ok(Filter {
        program,
        flags,
        listener_path: seccomp.listener_path().clone().filter(|_| notifies),
        listener_metadata: seccomp.listener_metadata().clone().filter(|_| notifies),
    })
}

/// Refuses what cannot work, cached or not; tells whether the filter notifies.
fn check(seccomp: &LinuxSeccomp) -> Result<bool> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    if seccomp.default_action() == notify {
        return Err(Error::field(
            "defaultAction",
            "SCMP_ACT_NOTIFY cannot be the default: it would stop the container's own setup",
        ));
    }
    let mut notifies = false;
    for (at, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        if rule.action() != notify {
            continue;
        }
        notifies = true;
        // The listener is passed on by the filtered process itself.
        if rule.names().iter().any(|name| name == "write") {
            return Err(Error::field(
                format!("syscalls[{at}]"),
                "SCMP_ACT_NOTIFY cannot be used for the write syscall",
            ));
        }
    }
    match (notifies, seccomp.listener_path()) {
        (true, None) => {
            Err(Error::field("listenerPath", "is missing, and SCMP_ACT_NOTIFY needs it"))
        }
        (true, Some(path)) if !path.is_absolute() => {
            Err(Error::field("listenerPath", "is not absolute"))
        }
        _ => Ok(notifies),
    }
}

fn flags(seccomp: &LinuxSeccomp, notifies: bool) -> u32 {
    let mut out = if notifies { FLAG_NEW_LISTENER } else { 0 };
    let Some(flags) = seccomp.flags() else {
        // As runc does where the profile says nothing: the mitigation is costly and not the filter's business.
        return out | FLAG_SPEC_ALLOW;
    };
    for flag in flags {
        out |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            // There is one thread when the filter is installed.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            // Means nothing without a listener, and the kernel refuses it then.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => {
                FLAG_WAIT_KILLABLE_RECV
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        };
    }
    out
}

impl Filter {
    /// Whether [`Filter::install`] gives a listener.
    pub fn notifies(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }

    /// Whether the filter lets a system call through without a word.
    pub fn allows(&self, number: libc::c_long, arguments: [u64; 6]) -> bool {
        const ALLOW: u32 = 0x7fff_0000;
        evaluate::evaluate(&self.program, number, arguments) == Some(ALLOW)
    }

    /// Installs the filter on the calling thread, which needs `no_new_privs` or CAP_SYS_ADMIN. Gives
    /// the listener of a notifying filter. Makes one system call and does not allocate, so it may be
    /// the last thing a cloned child does before `execve`.
    pub fn install(&self) -> io::Result<Option<OwnedFd>> {
        let program = libc::sock_fprog {
            len: (self.program.len() / INSTRUCTION) as u16,
            filter: self.program.as_ptr().cast_mut().cast(),
        };
        // SAFETY: `program` points to `len` instructions that live as long as `self`; the kernel copies them.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, self.flags, &raw const program)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        if !self.notifies() {
            return Ok(None);
        }
        // SAFETY: with a listener asked for, the result is a descriptor that nobody else owns.
        Ok(Some(unsafe { OwnedFd::from_raw_fd(result as i32) }))
    }
}

#[cfg(test)]
mod tests;
