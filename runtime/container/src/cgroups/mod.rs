//! Control groups: where a container's processes are accounted, limited, frozen and killed.
//!
//! In the order they are used: `layout` (what the machine has), `place` (where the container
//! goes), `limits` and `devices` (what is written), `plan` (all of it as data), `create`,
//! `entry` (how processes get in), `record` (what is done with a living one), `update`,
//! `stats`, `oom`; `systemd` where that makes the cgroup.
//!
//! v1, v2 and hybrid machines are handled by one code: on a hybrid one every v1 hierarchy gets a
//! directory, and the v2 hierarchy one beside them, which freezes and kills.
//!
//! Sources: `cgroups(7)`, the kernel's `admin-guide/cgroup-v1/` and `admin-guide/cgroup-v2.rst`,
//! "Control groups" of the runtime specification. Knows nothing of namespaces, bundles or the
//! command line.

mod apply;
mod create;
mod devices;
mod entry;
mod error;
mod fs;
mod layout;
mod limits;
mod oom;
mod place;
mod plan;
mod record;
mod stats;
mod systemd;
mod update;

#[cfg(test)]
mod tests;

pub use create::Cgroup;
pub use entry::{Entry, Remover};
pub use error::{Error, Result};
pub use oom::OomEvents;
pub use plan::{Plan, plan};
pub use record::{Hierarchy, Record};
pub use stats::Stats;

use oci::spec::LinuxResources;
use std::collections::HashMap;
use std::path::Path;

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
    /// The container's user as the host sees it, when it has a cgroup namespace of its own and may
    /// write to its groups: the v2 cgroup and the files named in `/sys/kernel/cgroup/delegate` are given to it.
    pub owner: Option<(u32, u32)>,
}
