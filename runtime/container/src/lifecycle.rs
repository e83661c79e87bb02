//! What is done to a container after it was made: start, signal, pause, update, delete.

use crate::{Record, Result, cgroups};
use oci::spec::LinuxResources;
use std::path::Path;

/// Starts a created container. A failing exec of the user's program is the error.
pub fn start(_state_dir: &Path, _record: &Record) -> Result<()> {
    unimplemented!()
}

/// Where the container stands. A zombie counts as stopped, a reused pid too.
pub fn status(_record: &Record, _state_dir: &Path) -> oci::Status {
    unimplemented!()
}

/// Sends a signal to the first process, or to all.
pub fn signal(_record: &Record, _signal: i32, _all: bool) -> Result<()> {
    unimplemented!()
}

/// Freezes every process.
pub fn pause(_record: &Record) -> Result<()> {
    unimplemented!()
}

/// Lets them run again.
pub fn resume(_record: &Record) -> Result<()> {
    unimplemented!()
}

/// Changes limits.
pub fn update(_record: &Record, _resources: &LinuxResources) -> Result<()> {
    unimplemented!()
}

/// Reads statistics.
pub fn stats(_record: &Record) -> Result<cgroups::Stats> {
    unimplemented!()
}

/// All processes.
pub fn processes(_record: &Record) -> Result<Vec<i32>> {
    unimplemented!()
}

/// Removes what is left of a stopped container (of a living one with `force`): processes, cgroup.
pub fn delete(_record: &Record, _force: bool) -> Result<()> {
    unimplemented!()
}
