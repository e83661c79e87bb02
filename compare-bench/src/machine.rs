//! What a report says of the machine it was made on.

use std::fs;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use serde::Serialize;

/// The machine under a measurement.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    pub cgroup: &'static str,
    /// The emulated machine of `scripts/lab`: its times compare with each
    /// other only.
    pub lab: bool,
}

impl Machine {
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?
                    .split_once(':')
                    .map(|(_, name)| name.trim().to_owned())
            })
            .unwrap_or_default();
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cgroup: cgroup(),
            lab: std::env::var_os("HULL_LAB").is_some(),
        }
    }
}

/// Whether cgroups are v2 alone.
pub fn unified() -> bool {
    statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn cgroup() -> &'static str {
    if unified() {
        "v2"
    } else if statfs("/sys/fs/cgroup/unified")
        .is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
    {
        "hybrid"
    } else {
        "v1"
    }
}
