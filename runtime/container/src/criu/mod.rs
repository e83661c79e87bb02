//! Checkpoint and restore by CRIU.
//!
//! CRIU is told what belongs to the outside (bind mounts, masked files, devices, namespaces joined
//! by path, the standard streams' pipes), does the work, and asks back at a few points. The form of
//! the image directory (`descriptors.json`, keys of external things) is runc's, so that images go
//! from one to the other.
//!
//! Sources: CRIU's `images/rpc.proto` and its documentation of RPC, `criu(8)`.

mod checkpoint;
mod external;
mod restore;
mod rpc;
mod swrk;

pub use checkpoint::{CheckpointRequest, checkpoint};
pub use restore::{RestoreRequest, Restored, restore};

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

/// Names of the pipes at the standard streams, in the image directory.
const DESCRIPTORS: &str = "descriptors.json";
/// The configuration file that CRIU reads for containers, unless an annotation names another.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";
/// The annotation that does.
const CONFIG_ANNOTATION: &str = "org.criu.config";

/// CRIU did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// CRIU cannot be started.
    #[error("criu: {0} (is it installed?)")]
    Start(io::Error),
    /// A system call failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried, and on what.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
    /// An option or a field that cannot be honoured here.
    #[error("{what}: {reason}")]
    Unsupported {
        /// The option or field.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The container's resctrl group cannot be made or joined.
    #[error(transparent)]
    Rdt(#[from] crate::rdt::Error),
    /// CRIU refused or failed.
    #[error("criu failed to {operation}{detail}")]
    Failed {
        /// "dump", "restore", …
        operation: &'static str,
        /// Its errno, its words, and the last errors of its log.
        detail: String,
    },
    /// CRIU's answer makes no sense.
    #[error("criu: unexpected answer to {0}")]
    Garbled(&'static str),
}

impl Error {
    fn io(operation: impl Into<String>, source: io::Error) -> Error {
        Error::Io { operation: operation.into(), source }
    }
}

/// How CRIU treats cgroups (`--manage-cgroups-mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Not at all.
    Ignore,
    /// Properties of those that it makes.
    #[default]
    Soft,
    /// Properties of all.
    Full,
    /// Those that exist already are an error.
    Strict,
}

impl std::str::FromStr for CgroupsMode {
    type Err = String;

    fn from_str(text: &str) -> Result<CgroupsMode, String> {
        match text {
            "ignore" => Ok(CgroupsMode::Ignore),
            "" | "soft" => Ok(CgroupsMode::Soft),
            "full" => Ok(CgroupsMode::Full),
            "strict" => Ok(CgroupsMode::Strict),
            other => Err(format!("{other:?} is not one of soft, full, strict, ignore")),
        }
    }
}

/// What both ways have in common; the names are those of runc's flags.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the images are.
    pub image_path: PathBuf,
    /// Where logs and temporary files go; the image directory by default.
    pub work_path: Option<PathBuf>,
    /// Connections stay.
    pub tcp_established: bool,
    /// Connections not yet accepted are left out.
    pub tcp_skip_in_flight: bool,
    /// Unix sockets connected to the outside are allowed.
    pub ext_unix_sk: bool,
    /// The container is a job of the caller's shell.
    pub shell_job: bool,
    /// File locks are kept.
    pub file_locks: bool,
    /// Memory follows on demand.
    pub lazy_pages: bool,
    /// How cgroups are treated.
    pub cgroups_mode: CgroupsMode,
    /// Namespaces (`CLONE_NEWNET`) whose content is not kept.
    pub empty_ns: u32,
    /// Pages that the parent image has are punched out of it.
    pub auto_dedup: bool,
    /// Unlinked files are linked again.
    pub link_remap: bool,
    /// AppArmor profile or SELinux label of the restored processes.
    pub lsm_profile: Option<String>,
    /// SELinux label of the restored mounts.
    pub lsm_mount_context: Option<String>,
    /// Leave the container running after the dump.
    pub leave_running: bool,
    /// Dump memory only, the container goes on.
    pub pre_dump: bool,
    /// An earlier (pre-)dump, relative to the image directory.
    pub parent_path: Option<PathBuf>,
    /// Pages go to a page server: address and port.
    pub page_server: Option<(String, u16)>,
    /// Told when the lazy page server is ready; closed then.
    pub status_fd: Option<RawFd>,
}

impl Options {
    /// The directory of CRIU's log.
    fn log_directory(&self) -> &Path {
        self.work_path.as_deref().unwrap_or(&self.image_path)
    }

    /// The options that both requests fill in alike.
    fn common(&self, log_file: &str) -> rpc::Opts {
        rpc::Opts {
            log_level: Some(4),
            log_file: Some(log_file.to_owned()),
            tcp_established: Some(self.tcp_established),
            tcp_skip_in_flight: Some(self.tcp_skip_in_flight),
            ext_unix_sk: Some(self.ext_unix_sk),
            shell_job: Some(self.shell_job),
            file_locks: Some(self.file_locks),
            lazy_pages: Some(self.lazy_pages),
            auto_dedup: Some(self.auto_dedup),
            link_remap: Some(self.link_remap),
            empty_ns: Some(self.empty_ns),
            // What CRIU before 1.6 understands.
            manage_cgroups: Some(true),
            manage_cgroups_mode: Some(match self.cgroups_mode {
                CgroupsMode::Ignore => rpc::CG_IGNORE,
                CgroupsMode::Soft => rpc::CG_SOFT,
                CgroupsMode::Full => rpc::CG_FULL,
                CgroupsMode::Strict => rpc::CG_STRICT,
            }),
            notify_scripts: Some(true),
            orphan_pts_master: Some(true),
            ..rpc::Opts::default()
        }
    }
}

/// The configuration file for CRIU; an empty annotation means none.
fn config_file(spec: &oci::spec::Spec) -> Option<String> {
    match spec.annotations().as_ref().and_then(|all| all.get(CONFIG_ANNOTATION)) {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(path.clone()),
        None => Some(CONFIG_FILE.to_owned()),
    }
}

/// Opens a directory for CRIU, made when it is missing and `make` says so.
fn directory(path: &Path, make: bool) -> Result<std::fs::File, Error> {
    use std::os::unix::fs::DirBuilderExt;
    if make {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("make {}", path.display()), error));
            }
            _ => {}
        }
    }
    let file = std::fs::File::open(path)
        .map_err(|source| Error::io(format!("open {}", path.display()), source))?;
    match file.metadata() {
        Ok(kind) if kind.is_dir() => Ok(file),
        _ => Err(Error::io(
            format!("open {}", path.display()),
            io::Error::from_raw_os_error(libc::ENOTDIR),
        )),
    }
}
