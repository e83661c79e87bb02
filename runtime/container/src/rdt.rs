//! `linux.intelRdt`: cache and memory bandwidth of a container by resctrl.
//!
//! Sources: "IntelRdt" of the runtime specification, the kernel's `filesystems/resctrl.rst`.

use oci::spec::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

/// resctrl could not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No resctrl file system.
    #[error("linux.intelRdt: resctrl is not mounted on this machine")]
    Missing,
}

/// What the state file remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {}

/// Makes the group; dropped without `keep`, it is removed.
#[derive(Debug)]
pub struct Group;

impl Group {
    /// Makes (or joins) the group named by `closID` or the container's id and writes its schemata.
    pub fn create(_rdt: &LinuxIntelRdt, _id: &str) -> Result<Group, Error> {
        unimplemented!()
    }
    /// Moves the container's first process in.
    pub fn join(&self, _pid: i32) -> Result<(), Error> {
        unimplemented!()
    }
    /// Keeps the group beyond this value's life.
    pub fn keep(self) -> Record {
        unimplemented!()
    }
}

impl Record {
    /// Removes what was made for the container.
    pub fn remove(&self) -> Result<(), Error> {
        unimplemented!()
    }
}
