//! What can go wrong with control groups: operation, object, errno.

use std::path::PathBuf;

/// A control group operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file or directory of a hierarchy failed.
    #[error("cgroup: {operation} {}: {source}", path.display())]
    Io {
        /// What was tried ("open", "write 1024 to", …).
        operation: String,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A limit was asked for whose controller this machine does not have.
    #[error(
        "invalid configuration: linux.resources.{field}: the {controller} controller is not \
         available to this cgroup"
    )]
    Missing {
        /// Path of the field below `linux.resources`.
        field: String,
        /// The controller it needs.
        controller: String,
    },
    /// The kernel refused a limit.
    #[error("linux.resources.{field}: write {value:?} to {}: {source}{hint}", path.display())]
    Limit {
        /// Path of the field below `linux.resources`.
        field: String,
        /// What was written.
        value: String,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
        /// What the cgroup uses now, where that is the likely reason.
        hint: String,
    },
    /// A value that cannot be honoured as it stands.
    #[error("linux.resources.{field}: {reason}")]
    Value {
        /// Path of the field below `linux.resources`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `linux.cgroupsPath` cannot be used.
    #[error("linux.cgroupsPath {path:?}: {reason}")]
    Path {
        /// As given.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path below the container's cgroup cannot be used.
    #[error("bad sub cgroup path: --cgroup {argument:?} is not below the container's cgroup")]
    Outside {
        /// As given.
        argument: String,
    },
    /// A cgroup that has given its controllers to others below takes no process.
    #[error("error adding pid 0 to cgroups: --cgroup {argument:?}: {source}")]
    BusySub {
        /// What was given.
        argument: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A path below the container's cgroup leads nowhere.
    #[error("error adding pid to cgroup: --cgroup {argument:?}: no such file or directory")]
    NoSub {
        /// As given.
        argument: String,
    },
    /// A hierarchy was named that the container's cgroup is not in.
    #[error("unknown controller {controller:?} in --cgroup {argument:?}")]
    Controller {
        /// As given.
        argument: String,
        /// The part that is wrong.
        controller: String,
    },
    /// No hierarchy is mounted at all.
    #[error("no cgroup file system is mounted")]
    NoHierarchy,
    /// A file of the kernel did not read as documented.
    #[error("{}: unexpected content {content:?}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What was found.
        content: String,
    },
    /// The device program could not be loaded or attached.
    #[error("device program of {}: {operation}: {source}", path.display())]
    Bpf {
        /// Which `bpf(2)` command.
        operation: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// systemd did not do as asked.
    #[error("systemd: {operation} {unit}: {reason}")]
    Systemd {
        /// The method called.
        operation: &'static str,
        /// The unit.
        unit: String,
        /// The bus's or systemd's words.
        reason: String,
    },
    /// A container would not come to life in there.
    #[error("cgroup {}: container's cgroup unexpectedly frozen: thaw it or choose another", path.display())]
    Frozen {
        /// The cgroup.
        path: PathBuf,
    },
    /// Its processes would be killed with the container, and share its limits.
    #[error("cgroup {}: container's cgroup is not empty: {count} process(es) found", path.display())]
    NotEmpty {
        /// The cgroup.
        path: PathBuf,
        /// How many are in it.
        count: usize,
    },
    /// Waiting for the kernel took too long.
    #[error("cgroup {}: {what} not reached within {millis} ms", path.display())]
    Timeout {
        /// The cgroup.
        path: PathBuf,
        /// "frozen", "empty", …
        what: &'static str,
        /// How long it was waited for.
        millis: u64,
    },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn io(
        operation: impl Into<String>,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Error {
        Error::Io { operation: operation.into(), path: path.into(), source }
    }

    pub(super) fn value(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Value { field: field.into(), reason: reason.into() }
    }
}
