//! The systemd driver: the cgroup is a transient unit.
//!
//! Sources: `org.freedesktop.systemd1(5)`, "Control Group APIs and Delegation" of systemd.

use super::error::{Error, Result};
use super::layout::Layout;
use super::place::Unit;
use super::plan::Limits;
use oci::spec::LinuxResources;
use std::collections::HashMap;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct Holder;

impl Holder {
    pub(super) fn directory(&self, _layout: &Layout) -> Option<PathBuf> {
        None
    }
}

fn unavailable(operation: &'static str, unit: &str) -> Error {
    Error::Systemd { operation, unit: unit.to_owned(), reason: "not built in yet".to_owned() }
}

pub(super) fn start(
    unit: &Unit,
    _resources: &LinuxResources,
    _limits: &Limits,
    _annotations: &HashMap<String, String>,
    _layout: &Layout,
    _user: bool,
) -> Result<Holder> {
    Err(unavailable("start", &unit.name))
}

pub(super) fn stop(unit: &str, _user: bool) -> Result<()> {
    Err(unavailable("stop", unit))
}

pub(super) fn update(
    unit: &str,
    _resources: &LinuxResources,
    _limits: &Limits,
    _layout: &Layout,
    _user: bool,
) -> Result<()> {
    Err(unavailable("update", unit))
}
