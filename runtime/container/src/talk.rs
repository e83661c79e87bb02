//! The parent's side of the talk with a child that sets itself up.

use crate::error::Failure;
use crate::hooks::{self, Kind as HookKind};
use crate::mounts::apply::set_options;
use crate::mounts::idmap::IdMaps;
use crate::mounts::plan::Step;
use crate::sync::{Channel, Message, Tag};
use crate::userns::Mappings;
use crate::{Error, Result};
use crate::{cgroups, netdev, process, rdt, seccomp, sys};
use oci::spec::{Hook, Spec};
use std::os::fd::{AsFd, OwnedFd};

/// A child that is killed and reaped when it is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    kept: bool,
}

impl Child {
    pub(crate) fn new(pid: i32, pidfd: OwnedFd) -> Child {
        Child { pid, pidfd, kept: false }
    }

    /// It lives on, and its end is somebody else's to wait for.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Ends it; what it had to say may still be read from the channel.
    pub(crate) fn reap(&mut self) -> String {
        if self.kept {
            return String::new();
        }
        self.kept = true;
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        match sys::wait(self.pid) {
            Ok(status) if libc::WIFSIGNALED(status) => {
                format!("signal {}", libc::WTERMSIG(status))
            }
            Ok(status) => format!("exit status {}", libc::WEXITSTATUS(status)),
            Err(error) => error.desc().to_owned(),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.reap();
    }
}

/// What the parent does while the namespaces are there and the root is not yet switched.
pub(crate) struct HostWork<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) rdt: Option<&'a rdt::Group>,
}

impl HostWork<'_> {
    fn hooks(&self) -> [(HookKind, &[Hook]); 2] {
        let hooks = self.spec.hooks().as_ref();
        #[allow(deprecated)] // The specification still wants it honoured.
        let prestart = hooks.and_then(|hooks| hooks.prestart().as_deref()).unwrap_or_default();
        let create = hooks.and_then(|hooks| hooks.create_runtime().as_deref()).unwrap_or_default();
        [(HookKind::Prestart, prestart), (HookKind::CreateRuntime, create)]
    }

    pub(crate) fn is_needed(&self) -> bool {
        self.rdt.is_some()
            || self.spec.linux().as_ref().is_some_and(|linux| linux.net_devices().is_some())
            || self.hooks().iter().any(|(_, hooks)| !hooks.is_empty())
    }

    fn carry_out(&self, pid: i32, state: &oci::State) -> Result<()> {
        if let Some(group) = self.rdt {
            group.join(pid)?;
        }
        let linux = self.spec.linux().as_ref();
        if let Some(devices) = linux.and_then(|linux| linux.net_devices().as_ref()) {
            let path = format!("/proc/{pid}/ns/net");
            let netns =
                std::fs::File::open(&path).map_err(|source| Error::sys("open", path, source))?;
            netdev::move_all(devices, netns.as_fd())?;
        }
        let state = oci::State { pid: Some(pid), ..state.clone() };
        for (kind, hooks) in self.hooks() {
            hooks::run(hooks, kind, &state)?;
        }
        Ok(())
    }
}

/// What only a container that is being made asks for.
pub(crate) struct Making<'a> {
    pub(crate) mappings: Mappings,
    pub(crate) host: HostWork<'a>,
    pub(crate) steps: &'a [Step],
    pub(crate) idmaps: &'a IdMaps,
}

impl Making<'_> {
    /// Sets the options of a source that the child may not map the ids of.
    fn set_options(&self, message: &Message) -> Result<()> {
        let index = usize::try_from(message.number()).ok();
        let step = index.and_then(|index| self.steps.get(index));
        match step.zip(message.fds.first()) {
            Some((step, tree)) => set_options(step, tree.as_fd(), self.idmaps).map_err(Error::Init),
            None => Err(Error::Init(Failure::plain("there is no such mount"))),
        }
    }
}

/// The parent's side of the talk with the child.
pub(crate) struct Talk<'a> {
    pub(crate) channel: Channel,
    pub(crate) child: Child,
    /// The terminal's master, once the child made one.
    pub(crate) console: Option<OwnedFd>,
    pub(crate) process: &'a process::Plan,
    pub(crate) state: &'a oci::State,
    /// What the child may ask to be let into.
    pub(crate) cgroup: &'a cgroups::Record,
    /// Not for `exec`.
    pub(crate) making: Option<Making<'a>>,
}

impl Talk<'_> {
    /// Serves the child until it is set up.
    pub(crate) fn until_ready(&mut self) -> Result<()> {
        match self.serve_all()? {
            true => Ok(()),
            false => Err(Error::InitDied(self.child.reap())),
        }
    }

    /// Serves the child until it executed its program: then its end of the channel is closed.
    pub(crate) fn until_executed(&mut self) -> Result<()> {
        self.serve_all().map(drop)
    }

    /// Whether it said that it is ready before the channel ended.
    fn serve_all(&mut self) -> Result<bool> {
        loop {
            let message = self
                .channel
                .receive()
                .map_err(|error| Error::sys("hear from", "the container's process", error))?;
            let Some(message) = message else { return Ok(false) };
            if message.tag == Tag::Ready {
                return Ok(true);
            }
            if let Some(body) = self.serve(message)? {
                self.go(&body)?;
            }
        }
    }

    fn go(&self, body: &[u8]) -> Result<()> {
        // A child that died meanwhile is noticed by the next receive.
        match self.channel.send(Tag::Go, body, &[]) {
            Ok(()) | Err(nix::errno::Errno::EPIPE) => Ok(()),
            Err(error) => Err(Error::sys("speak to", "the container's process", error)),
        }
    }

    /// Does what a message asks for; gives the body of the answer, where there is one.
    fn serve(&mut self, mut message: Message) -> Result<Option<Vec<u8>>> {
        let pid = self.child.pid;
        match (message.tag, &self.making) {
            (Tag::Failed | Tag::Exec, _) => {
                let failure = message.failure();
                self.child.reap();
                Err(Error::Init(failure))
            }
            (Tag::Pid, _) => {
                let pid = message.number();
                let pidfd = sys::pidfd_open(pid)
                    .map_err(|error| Error::sys("open", "the container's process", error))?;
                let mut between = std::mem::replace(&mut self.child, Child::new(pid, pidfd));
                // It has said its last word and ends by itself.
                between.keep();
                let _ = sys::wait(between.pid);
                Ok(Some(Vec::new()))
            }
            (Tag::Mapping, Some(making)) => {
                self.process.set_oom_score(&pid.to_string()).map_err(Error::Init)?;
                let may_set_groups = making.mappings.write(pid)?;
                Ok(Some(vec![may_set_groups.into()]))
            }
            (Tag::Hooks, Some(making)) => {
                making.host.carry_out(pid, self.state)?;
                Ok(Some(Vec::new()))
            }
            (Tag::Source, Some(making)) => {
                making.set_options(&message)?;
                Ok(Some(Vec::new()))
            }
            (Tag::Cgroup, _) => {
                self.cgroup.attach(pid)?;
                Ok(Some(Vec::new()))
            }
            (Tag::Limits, _) => {
                self.process.raise_limits(pid).map_err(Error::Init)?;
                Ok(Some(Vec::new()))
            }
            (Tag::Console, _) => {
                self.console = message.fds.pop();
                Ok(None)
            }
            (Tag::Listener, _) => {
                if let Some((filter, listener)) =
                    self.process.filter.as_ref().zip(message.fds.pop())
                {
                    let state = oci::State { pid: Some(pid), ..self.state.clone() };
                    seccomp::send_listener(filter, listener, oci::SPEC_VERSION, &state, pid)?;
                }
                Ok(None)
            }
            (other, _) => Err(Error::Init(Failure::plain(format!("unexpected message {other:?}")))),
        }
    }
}
