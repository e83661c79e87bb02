//! Control groups: where a container's processes are accounted, limited, frozen and killed.
//!
//! Sources: `cgroups(7)`, the kernel's `admin-guide/cgroup-v1/` and `admin-guide/cgroup-v2.rst`,
//! and "Linux Control Groups" of the runtime specification. Knows nothing of namespaces, bundles
//! or the command line.

mod error;

pub use error::{Error, Result};
use oci::spec::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What is asked for, as `config.json` and the command line put it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `linux.cgroupsPath`.
    pub path: Option<&'a Path>,
    /// The container's id, used where no path is given.
    pub id: &'a str,
    /// The systemd driver (`--systemd-cgroup`).
    pub systemd: bool,
    /// Not root: what cannot be had is said once instead of failing.
    pub rootless: bool,
    /// `linux.resources`.
    pub resources: Option<&'a LinuxResources>,
    /// The spec's annotations (`org.systemd.property.*`).
    pub annotations: Option<&'a HashMap<String, String>>,
    /// The container's root user as the host sees it, when it has a user and a cgroup namespace of
    /// its own: the v2 files named in `/sys/kernel/cgroup/delegate` are given to it.
    pub owner: Option<(u32, u32)>,
}

/// What will be made: paths and writes, no system call on a hierarchy made yet.
#[derive(Debug)]
pub struct Plan;

/// A created cgroup. Dropped without [`Cgroup::keep`], it is removed.
#[derive(Debug)]
pub struct Cgroup;

/// How a process gets into a cgroup.
#[derive(Debug, Default)]
pub struct Entry {
    /// `cgroup.procs` of every hierarchy: the process moves itself by writing `0` to each.
    pub procs: Vec<OwnedFd>,
    /// Directory of the v2 cgroup for `CLONE_INTO_CGROUP`; it then is not among `procs`.
    pub into: Option<OwnedFd>,
    /// `cgroup.procs` of the v2 cgroup, for a kernel or a caller without `CLONE_INTO_CGROUP`.
    pub v2_procs: Option<OwnedFd>,
}

/// What the state file remembers of a cgroup.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Directory by controller; the v2 cgroup has the empty name, as in `/proc/PID/cgroup`.
    pub paths: std::collections::BTreeMap<String, PathBuf>,
    /// The systemd unit, with the systemd driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// One hierarchy as a `cgroup` mount in a container shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Name of the directory under the mount: `cpu`, `cpu,cpuacct`, `systemd`, `unified`; empty on a
    /// machine with v2 alone, where the cgroup itself is mounted.
    pub name: String,
    /// Symbolic links to it (`cpu` for `cpu,cpuacct`).
    pub links: Vec<String>,
    /// The container's own cgroup in it, as the host sees it (what is bound without a cgroup namespace).
    pub source: PathBuf,
    /// `cgroup2` or `cgroup`.
    pub v2: bool,
    /// Mount data for mounting it afresh in a cgroup namespace (`cpu,cpuacct`, `none,name=systemd`).
    pub data: String,
}

/// Statistics, in the shape of runc's `events --stats`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {}

/// Notices of out-of-memory kills, to be polled.
#[derive(Debug)]
pub struct OomEvents;

impl OomEvents {
    /// Becomes readable when something happened.
    pub fn fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
    /// Consumes what happened: how many kills since the last call. `None`: the cgroup is gone.
    pub fn next(&mut self) -> Result<Option<u64>> {
        unimplemented!()
    }
}

/// Computes where the cgroup goes and what is written there.
pub fn plan(_request: &Request<'_>) -> Result<Plan> {
    unimplemented!()
}

impl Plan {
    /// Makes the directories and writes the limits.
    pub fn create(self) -> Result<Cgroup> {
        unimplemented!()
    }
}

impl Cgroup {
    /// The descriptors by which a child joins.
    pub fn entry(&self) -> Result<Entry> {
        unimplemented!()
    }
    /// To be called once the container's first process is inside (lets go of what held a systemd
    /// scope open); `keep` does it too.
    pub fn joined(&mut self) {
        unimplemented!()
    }
    /// What the state file will remember.
    pub fn record(&self) -> Record {
        unimplemented!()
    }
    /// Keeps the cgroup beyond this value's life.
    pub fn keep(self) -> Record {
        unimplemented!()
    }
    /// What a `cgroup` mount shows.
    pub fn mounts(&self) -> Vec<Hierarchy> {
        unimplemented!()
    }
    /// Gives up the descriptors with which a surviving child can remove the cgroup after its creator was killed.
    pub fn remover(&self) -> Result<Remover> {
        unimplemented!()
    }
}

/// Removes a cgroup by descriptors alone: for a child that outlived its creator.
#[derive(Debug)]
pub struct Remover;

impl Remover {
    /// Moves the caller out (to where the creator was) and removes the directories; errors are not reported.
    pub fn remove(&self) {
        unimplemented!()
    }
}

impl Record {
    /// Stops every process of the cgroup from running.
    pub fn freeze(&self) -> Result<()> {
        unimplemented!()
    }
    /// Lets them run again.
    pub fn thaw(&self) -> Result<()> {
        unimplemented!()
    }
    /// Whether it is frozen.
    pub fn frozen(&self) -> Result<bool> {
        unimplemented!()
    }
    /// Sends SIGKILL to every process, nested cgroups included (`cgroup.kill` where there is one).
    pub fn kill_all(&self) -> Result<()> {
        unimplemented!()
    }
    /// Sends a signal to every process, nested cgroups included.
    pub fn signal_all(&self, _signal: i32) -> Result<()> {
        unimplemented!()
    }
    /// All processes, nested cgroups included.
    pub fn processes(&self) -> Result<Vec<i32>> {
        unimplemented!()
    }
    /// Changes limits of a living cgroup (`update`).
    pub fn apply(&self, _resources: &LinuxResources) -> Result<()> {
        unimplemented!()
    }
    /// Reads the statistics.
    pub fn stats(&self) -> Result<Stats> {
        unimplemented!()
    }
    /// Watches for out-of-memory kills.
    pub fn oom_events(&self) -> Result<OomEvents> {
        unimplemented!()
    }
    /// Removes the cgroup with everything nested in it.
    pub fn remove(&self) -> Result<()> {
        unimplemented!()
    }
    /// Whether any directory of it still exists.
    pub fn exists(&self) -> bool {
        unimplemented!()
    }
    /// Descriptors for one more process (`exec`). `sub` is runc's `--cgroup`: a path below, or `controllers:path`.
    pub fn entry(&self, _sub: &[String]) -> Result<Entry> {
        unimplemented!()
    }
    /// What a `cgroup` mount shows.
    pub fn mounts(&self) -> Result<Vec<Hierarchy>> {
        unimplemented!()
    }
}
