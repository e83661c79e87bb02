//! What happens to a container from `create` to `delete`, on either wall.
//!
//! Knows the state directory, the hooks that the runtime runs itself (poststart, poststop)
//! and the [`Wall`]; neither the command line nor what a wall is made of.

mod create;
mod id;
mod notify;
mod signals;
mod store;
mod time;
mod wait;

pub use create::{CreateOptions, Live, create, restore};
pub(crate) use create::{absolute, check_console};
pub use id::Id;
pub use signals::Blocked;
pub use store::{Store, write_pid_file};
pub use time::{now, now_seconds};
pub(crate) use wait::take_signal;
pub use wait::{reset_child_signal, set_subreaper, wait};

use crate::wall::{Container, Rootless, Wall};
use crate::{Error, Result};
use config::{Flags, WallKind};
use container::hooks;
use oci::Status;
use std::ffi::OsString;
use std::path::PathBuf;

/// What is the same for every command of one call.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where state is kept.
    pub store: Store,
    /// The flags that choose a wall.
    pub flags: Flags,
    /// The name hull was called by.
    pub argv0: OsString,
    /// `--config`; the usual place otherwise.
    pub config_file: Option<PathBuf>,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// `--rootless`.
    pub rootless: Rootless,
    /// `--debug`.
    pub debug: bool,
}

/// The wall of a kind.
pub fn wall(kind: WallKind) -> &'static dyn Wall {
    match kind {
        WallKind::Container => &crate::container_wall::ContainerWall,
        WallKind::Microvm => &crate::microvm_wall::MicrovmWall,
    }
}

impl Container {
    /// Its wall.
    pub fn wall(&self) -> &'static dyn Wall {
        wall(self.record.kind())
    }

    /// Where it stands.
    pub fn status(&self) -> Result<Status> {
        self.wall().status(self)
    }

    /// The state that hooks are given.
    pub fn state(&self, status: Status) -> oci::State {
        oci::State {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            status,
            pid: (status != Status::Stopped).then(|| self.record.pid()),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// Runs the poststart hooks. One that fails ends the container (runtime-spec 1.3).
    fn run_poststart(&self) -> Result<()> {
        if self.poststart.is_empty() {
            return Ok(());
        }
        let state = self.state(Status::Running);
        hooks::run(&self.poststart, hooks::Kind::Poststart, &state).map_err(|error| {
            let _ = self.wall().signal(self, libc::SIGKILL, true);
            error.into()
        })
    }

    /// Runs the poststop hooks. The container is gone: one that fails is a warning only.
    fn run_poststop(&self) {
        let state = self.state(Status::Stopped);
        for hook in &self.poststop {
            let alone = std::slice::from_ref(hook);
            if let Err(error) = hooks::run(alone, hooks::Kind::Poststop, &state) {
                tracing::warn!("{error}");
            }
        }
    }
}

/// Runs the program of a created container.
pub fn start(context: &Context, id: &Id) -> Result<()> {
    let (lock, container) = context.store.lock(id)?;
    match container.status()? {
        Status::Created => {}
        Status::Stopped => return Err(Error::StartStopped),
        Status::Running => return Err(Error::StartRunning),
        status => return Err(Error::StartWrong(status)),
    }
    let notify = match notify::manager() {
        Some(manager) => notify::Socket::bind(&container.state_dir, manager, None)?,
        None => None,
    };
    let pid = container.record.pid();
    let notify = notify.map(|socket| Ok::<_, Error>((socket, notify::watch(pid)?))).transpose()?;
    container.wall().start(&container)?;
    container.run_poststart()?;
    drop(lock);
    match notify {
        Some((socket, process)) => socket.forward(process, pid as u32),
        None => Ok(()),
    }
}

/// Sends a signal.
pub fn kill(context: &Context, id: &Id, signal: i32, all: bool) -> Result<()> {
    let container = context.store.load(id)?;
    // With `all`, processes may be left in the cgroup of a container whose first one ended.
    let mut all = all;
    if !all && container.status()? == Status::Stopped {
        // Without a pid namespace of its own, a container's other processes outlive its first.
        let left = |processes: Vec<_>| !processes.is_empty();
        all = signal == libc::SIGKILL && container.wall().processes(&container).is_ok_and(left);
        if !all {
            return Err(Error::NotRunning);
        }
    }
    container.wall().signal(&container, signal, all)
}

/// Removes what is left of a container.
pub fn delete(context: &Context, id: &Id, force: bool) -> Result<()> {
    let store = &context.store;
    let (_lock, container) = match store.lock(id) {
        Ok(locked) => locked,
        Err(Error::NotFound) => {
            if let Some(config) = store.discard(id)? {
                // A systemd scope goes by itself with its last process.
                if !context.systemd_cgroup {
                    container::discard(id.as_str(), &config, context.rootless)?;
                }
            }
            return if force { Ok(()) } else { Err(Error::NotFound) };
        }
        Err(Error::Corrupt { .. }) if force => return store.discard(id).map(drop),
        Err(error) => return Err(error),
    };
    let status = container.status()?;
    let living = match status {
        Status::Stopped => false,
        // Nothing of the user's has run yet.
        Status::Created => true,
        _ if force => true,
        status => return Err(Error::NotStopped { id: id.to_string(), status }),
    };
    container.wall().delete(&container, living || force)?;
    forget(store, &container)
}

fn forget(store: &Store, container: &Container) -> Result<()> {
    store.remove(&container.state_dir)?;
    container.run_poststop();
    Ok(())
}

/// Saves a container's processes; unless they are to run on, the container is deleted.
pub fn checkpoint(context: &Context, id: &Id, options: &container::criu::Options) -> Result<()> {
    let (lock, container) = context.store.lock(id)?;
    match container.status()? {
        Status::Running | Status::Paused => {}
        status => return Err(Error::NotCheckpointable(status)),
    }
    let mut config = context.store.config(&container)?;
    let notifies = notify::recall(&mut config.spec, &container.state_dir);
    // It may take as long as nobody fetches the pages; `delete --force` is not to wait for that.
    lock.release();
    container.wall().checkpoint(&container, &config, options)?;
    if notifies {
        notify::mark(&options.image_path)?;
    }
    if options.leave_running || options.pre_dump || !lock.retake()? {
        return Ok(());
    }
    container.wall().delete(&container, true)?;
    forget(&context.store, &container)
}

/// Freezes a container.
pub fn pause(context: &Context, id: &Id) -> Result<()> {
    let container = context.store.load(id)?;
    match container.status()? {
        Status::Created | Status::Running => container.wall().pause(&container),
        status => Err(Error::NotPausable(status)),
    }
}

/// Lets a frozen container run again.
pub fn resume(context: &Context, id: &Id) -> Result<()> {
    let container = context.store.load(id)?;
    match container.status()? {
        Status::Paused => container.wall().resume(&container),
        _ => Err(Error::NotPaused),
    }
}
