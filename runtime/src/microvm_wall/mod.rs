//! The microVM wall: a bundle behind a kernel of its own.
//!
//! `create` starts the *monitor*, this program once more, which is the VMM and whose pid is the
//! container's: it lives in the container's cgroup and network namespace and exits with the
//! workload's status. It is reached over a control socket in the state directory. The guest's
//! PID 1 is the agent, which runs the bundle with the `container` crate.
//!
//! Must not know the command line's flags.

pub mod plan;

use crate::wall::{Container, CreateRequest, Created, Exec, ExecRequest, Update, Wall};
use crate::{Error, Result};
use container::cgroups::OomEvents;
use std::ffi::OsString;

/// The word by which this program is told to be a monitor: its first argument.
pub const MONITOR: &str = "monitor";

/// Runs bundles in microVMs.
#[derive(Debug, Clone, Copy, Default)]
pub struct MicrovmWall;

/// The monitor: what `main` calls when the first argument is [`MONITOR`], before anything else.
pub fn monitor() -> ! {
    unimplemented!()
}

fn missing<T>(operation: &'static str) -> Result<T> {
    Err(Error::NotOnThisWall { operation, wall: "microVM" })
}

impl Wall for MicrovmWall {
    fn create(&self, _request: &CreateRequest<'_>) -> Result<Box<dyn Created>> {
        missing("create")
    }
    fn start(&self, _container: &Container) -> Result<()> {
        missing("start")
    }
    fn status(&self, _container: &Container) -> Result<oci::Status> {
        missing("status")
    }
    fn exec(&self, _container: &Container, _request: &ExecRequest<'_>) -> Result<Exec> {
        missing("exec")
    }
    fn signal(&self, _container: &Container, _signal: i32, _all: bool) -> Result<()> {
        missing("signal")
    }
    fn pause(&self, _container: &Container) -> Result<()> {
        missing("pause")
    }
    fn resume(&self, _container: &Container) -> Result<()> {
        missing("resume")
    }
    fn update(&self, _container: &Container, _update: &Update) -> Result<()> {
        missing("update")
    }
    fn stats(&self, _container: &Container) -> Result<container::cgroups::Stats> {
        missing("stats")
    }
    fn processes(&self, _container: &Container) -> Result<Vec<i32>> {
        missing("processes")
    }
    fn process_table(&self, _container: &Container, _arguments: &[OsString]) -> Result<String> {
        missing("ps")
    }
    fn oom_events(&self, _container: &Container) -> Result<Option<OomEvents>> {
        Ok(None)
    }
    fn delete(&self, _container: &Container, _force: bool) -> Result<()> {
        missing("delete")
    }
}
