//! The seam between the life cycle and what a container is made of.
//!
//! The command line, the containerd shim and the tests speak to [`Wall`] only; nothing
//! above it asks whether a container is a virtual machine. It knows no command line.

use crate::Result;
use config::{Decision, WallKind};
pub use container::Rootless;
use oci::spec::{Hook, LinuxResources, Process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The version of `state.json`.
pub const RECORD_VERSION: u32 = 1;

/// Directory under the root for what containers share. No id can be spelt like it.
pub const CACHE_DIR: &str = "@cache";

/// What a wall is asked to make.
pub struct CreateRequest<'a> {
    /// The container's id, validated.
    pub id: &'a str,
    /// The bundle's configuration, validated.
    pub config: &'a oci::Config,
    /// Size and kernel of a microVM.
    pub decision: &'a Decision,
    /// The bundle, absolute.
    pub bundle: &'a Path,
    /// `<root>/<id>`: exists, mode 0700, locked by the caller.
    pub state_dir: &'a Path,
    /// The state directory's lock. Whoever else cleans up after a killed caller is to share it.
    pub state_lock: BorrowedFd<'a>,
    /// `<root>`: where what containers share is cached.
    pub root: &'a Path,
    /// A listening unix socket that gets the terminal's master (`process.terminal`); without
    /// one the caller takes it by [`Created::take_console`].
    pub console_socket: Option<&'a Path>,
    /// stdin, stdout, stderr; the caller's own when `None`.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// How many descriptors from 3 on the workload inherits.
    pub preserve_fds: u32,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// Whether privileges are missing.
    pub rootless: Rootless,
    /// The same process starts it and waits for it: no fifo is needed.
    pub foreground: bool,
    /// Undoes what is made if this process is killed.
    pub guard: Option<&'a container::Guard>,
    /// `--debug`.
    pub debug: bool,
}

/// What `exec` is asked to run.
pub struct ExecRequest<'a> {
    /// The process, complete (defaults taken from the container's own where not given).
    pub process: &'a Process,
    /// The container's configuration as it was at `create`.
    pub config: &'a oci::Config,
    /// As in [`CreateRequest`].
    pub console_socket: Option<&'a Path>,
    /// As in [`CreateRequest`].
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// As in [`CreateRequest`].
    pub preserve_fds: u32,
    /// `<root>`, as in [`CreateRequest`].
    pub root: &'a Path,
    /// `--cgroup`: paths below the container's cgroup, or `controllers:path`.
    pub cgroup: &'a [String],
    /// Run even in a paused container.
    pub ignore_paused: bool,
    /// Nobody waits here for the process.
    pub detach: bool,
}

/// What `update` changes.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Limits; what is `None` stays as it is.
    pub resources: LinuxResources,
    /// `--l3-cache-schema`, for resctrl.
    pub l3_cache_schema: Option<String>,
    /// `--mem-bw-schema`, for resctrl.
    pub mem_bw_schema: Option<String>,
}

/// A container that was made and not kept yet: dropped, it is unmade.
pub trait Created {
    /// The container's process, a child of the caller that exits with the workload's status.
    fn pid(&self) -> i32;
    /// What `state.json` has to remember.
    fn record(&self) -> Record;
    /// The terminal's master, when there is a terminal and no console socket was given.
    fn take_console(&mut self) -> Option<OwnedFd>;
    /// Runs the workload (startContainer hooks included). A failing exec is the error.
    fn start(&mut self) -> Result<()>;
    /// Leaves it be.
    fn keep(self: Box<Self>);
}

/// A process started by `exec`: a child of the caller that exits with the workload's status.
#[derive(Debug)]
pub struct Exec {
    /// Its pid, as the host sees it.
    pub pid: i32,
    /// The terminal's master, when there is a terminal and no console socket was given.
    pub console: Option<OwnedFd>,
}

/// A way to run bundles.
pub trait Wall {
    /// Makes a container that waits for [`Wall::start`]. Hooks up to createContainer are run.
    fn create(&self, request: &CreateRequest<'_>) -> Result<Box<dyn Created>>;
    /// Lets a created container run its workload (startContainer hooks included).
    fn start(&self, container: &Container) -> Result<()>;
    /// Where it stands.
    fn status(&self, container: &Container) -> Result<oci::Status>;
    /// Runs another process in it.
    fn exec(&self, container: &Container, request: &ExecRequest<'_>) -> Result<Exec>;
    /// Sends a signal to its first process, or to all.
    fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<()>;
    /// Freezes it.
    fn pause(&self, container: &Container) -> Result<()>;
    /// Thaws it.
    fn resume(&self, container: &Container) -> Result<()>;
    /// Changes its limits, and its record where more than limits had to be made for that.
    fn update(&self, container: &mut Container, update: &Update) -> Result<()>;
    /// What it uses.
    fn stats(&self, container: &Container) -> Result<container::cgroups::Stats>;
    /// Pids of its processes: the host's in a container, the guest's in a microVM.
    fn processes(&self, container: &Container) -> Result<Vec<i32>>;
    /// A table of its processes as `ps` with these arguments prints one.
    fn process_table(&self, container: &Container, arguments: &[OsString]) -> Result<String>;
    /// Notices of out-of-memory kills; `None` where the wall can give none.
    fn oom_events(&self, container: &Container) -> Result<Option<container::cgroups::OomEvents>>;
    /// Saves its processes. Unless they are to run on, they are gone afterwards.
    fn checkpoint(
        &self,
        container: &Container,
        config: &oci::Config,
        options: &container::criu::Options,
    ) -> Result<()>;
    /// Makes a container from saved processes, which run at once: [`Created::start`] has nothing
    /// left to do.
    fn restore(
        &self,
        request: &CreateRequest<'_>,
        options: &container::criu::Options,
    ) -> Result<Box<dyn Created>>;
    /// Removes what is left of a stopped container; with `force`, ends it first.
    fn delete(&self, container: &Container, force: bool) -> Result<()>;
}

/// What one wall remembers of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "wall", rename_all = "lowercase")]
pub enum Record {
    /// On the host's kernel.
    Container(container::Record),
    /// In a microVM.
    Microvm(MicrovmRecord),
}

/// What the microVM wall remembers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MicrovmRecord {
    /// The monitor.
    pub pid: i32,
    /// When it was started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
    /// Its cgroup.
    pub cgroup: container::cgroups::Record,
    /// The guest's memory in bytes.
    pub memory: u64,
}

impl Record {
    /// Which wall it belongs to.
    pub fn kind(&self) -> WallKind {
        match self {
            Record::Container(_) => WallKind::Container,
            Record::Microvm(_) => WallKind::Microvm,
        }
    }

    /// The container's process as the host sees it.
    pub fn pid(&self) -> i32 {
        match self {
            Record::Container(record) => record.pid,
            Record::Microvm(record) => record.pid,
        }
    }
}

/// A container as `state.json` remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// `ociVersion` of its `config.json`.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its root file system, absolute.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
    /// Uid of who made it.
    pub owner: u32,
    /// The annotations of `config.json`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `hooks.poststart` of `config.json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// `hooks.poststop` of `config.json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
    /// What its wall remembers.
    pub record: Record,
    /// `<root>/<id>`; not part of the file.
    #[serde(skip)]
    pub state_dir: PathBuf,
}
