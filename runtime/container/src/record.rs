//! What outlives `create`: the part of the state file that this crate needs later.

use crate::rootfs::SharedRoot;
use crate::{cgroups, rdt};
use serde::{Deserialize, Serialize};

/// Whether the caller lacks the privileges of real root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rootless {
    /// Found out from the caller's user id and user namespace.
    #[default]
    Auto,
    /// Yes: what cannot be had is left out, once and clearly said.
    Yes,
    /// No: what cannot be had is an error.
    No,
}

impl Rootless {
    /// The answer for this process.
    pub fn decide(self) -> bool {
        match self {
            Rootless::Yes => true,
            Rootless::No => false,
            Rootless::Auto => !nix::unistd::geteuid().is_root() || !crate::userns::is_initial(),
        }
    }
}

/// A created container as the state file remembers it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// The container's id.
    #[serde(default)]
    pub id: String,
    /// Init, as the caller's pid namespace sees it.
    pub pid: i32,
    /// Start time of `pid` in clock ticks since boot (field 22 of `/proc/PID/stat`): tells a
    /// reused pid.
    pub start_time: u64,
    /// Where its processes are accounted.
    pub cgroup: cgroups::Record,
    /// The resctrl group, when one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<rdt::Record>,
    /// It has no session keyring of its own (`--no-new-keyring`).
    #[serde(default)]
    pub no_keyring: bool,
    /// Made without the privileges of real root.
    #[serde(default)]
    pub rootless: bool,
    /// The container shares the caller's pid namespace: `delete` must kill by cgroup.
    #[serde(default)]
    pub shared_pid: bool,
    /// It has a time namespace that its configuration does not name: CRIU makes one at the restore,
    /// and could not save processes in different ones.
    #[serde(default)]
    pub restored_time: bool,
    /// The container shares the caller's mount namespace, and `delete` must unmount its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_root: Option<SharedRoot>,
}
