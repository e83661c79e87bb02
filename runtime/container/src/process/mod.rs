//! The process that runs the user's program: planned by the parent, carried out by the child.
//!
//! The same for the container's first process and for `exec`. Follows "Process" of the runtime
//! specification and the order of runc's init where the order can be seen.

pub mod caps;
mod limits;
pub mod lsm;
mod program;
mod sched;
pub(crate) mod stdio;
mod stub;
mod user;

use crate::error::{Done, Trying};
use crate::path::Root;
use crate::seccomp::Filter;
use crate::sys;
use crate::{Error, Result};
use caps::Sets;
use limits::Limit;
use lsm::Labels;
pub(crate) use program::Program;
use sched::{Bits, MemoryPolicy, SchedAttr};
pub use sched::{MEMORY_POLICY_FLAGS, MEMORY_POLICY_MODES};
pub(crate) use sched::{own_affinity, reset_affinity};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use stub::Stub;
pub(crate) use user::{Identity, clear_umask};

/// All attributes of the process, understood and checked.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: Program,
    identity: Identity,
    capabilities: Sets,
    no_new_privileges: bool,
    limits: Vec<Limit>,
    oom_score_adj: Option<i32>,
    scheduler: Option<SchedAttr>,
    /// The cgroup has some CPUs only.
    few_cpus: bool,
    io_priority: Option<i32>,
    memory_policy: Option<MemoryPolicy>,
    personality: Option<u64>,
    labels: Labels,
    pub(crate) filter: Option<Filter>,
    /// The program has a terminal.
    pub(crate) terminal: Option<crate::pty::Modes>,
    /// Descriptors from 3 on that the program keeps.
    pub(crate) kept_fds: u32,
    /// CPUs before and after the move into the container's cgroup (`exec` only).
    pub(crate) affinity: Option<(Bits, Bits)>,
    /// Missing privileges are forgiven where runc forgives them.
    pub(crate) rootless: bool,
    /// Things left out, to be told once.
    pub(crate) warnings: Vec<String>,
    /// The program's directory is the current one already.
    entered: bool,
    /// This program's own file is to be kept from the container, see [`stub`].
    by_stub: bool,
    stub: Option<Stub>,
}

/// What a plan depends on beside `process`.
pub(crate) struct Surroundings<'a> {
    pub(crate) linux: Option<&'a oci::spec::Linux>,
    pub(crate) filter: Option<Filter>,
    /// The process lives in another user namespace than the caller.
    pub(crate) user_namespace: bool,
    pub(crate) rootless: bool,
    pub(crate) preserve_fds: u32,
    /// A terminal's newlines come out without a carriage return.
    pub(crate) plain_newlines: bool,
    /// Additions to the environment.
    pub(crate) environment: Vec<String>,
    /// For `exec`: CPU affinity is honoured.
    pub(crate) exec: bool,
}

impl Plan {
    pub(crate) fn new(process: &oci::spec::Process, around: Surroundings<'_>) -> Result<Plan> {
        if process.command_line().is_some() {
            return Err(Error::value("process.commandLine", "is for Windows only"));
        }
        let (available, inherited) = if around.user_namespace {
            (caps::known(), 0)
        } else {
            caps::available().map_err(|error| Error::sys("read", "own capabilities", error))?
        };
        let (capabilities, mut warnings) = Sets::plan(process.capabilities().as_ref(), available);
        if process.user().username().as_ref().is_some_and(|name| !name.is_empty()) {
            warnings.push("process.user.username: is for Windows only, uid is used".to_owned());
        }
        if let Some(names) = capabilities.beyond_bounding(inherited) {
            return Err(Error::sys(
                "set",
                format!("process.capabilities.inheritable: not in the bounding set: {names}"),
                nix::errno::Errno::EPERM,
            ));
        }
        let affinity = match process.exec_cpu_affinity() {
            Some(given) if around.exec => {
                let list = |name: &str, text: &Option<String>| {
                    Bits::parse(
                        &format!("process.execCPUAffinity.{name}"),
                        text.as_deref().unwrap_or_default(),
                    )
                };
                Some((
                    list("initial", given.initial())?,
                    list("final", given.cpu_affinity_final())?,
                ))
            }
            _ => None,
        };
        let linux = around.linux;
        let terminal = process.terminal().unwrap_or(false).then(|| {
            let size = process.console_size().unwrap_or_default();
            let size = crate::pty::Size {
                rows: size.height().min(u16::MAX.into()) as u16,
                columns: size.width().min(u16::MAX.into()) as u16,
            };
            crate::pty::Modes { size, plain_newlines: around.plain_newlines }
        });
        Ok(Plan {
            program: Program::plan(process, around.environment)?,
            identity: Identity::plan(process.user()),
            capabilities,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            limits: limits::plan(process.rlimits().as_deref())?,
            oom_score_adj: process.oom_score_adj(),
            scheduler: process.scheduler().as_ref().map(SchedAttr::plan).transpose()?,
            few_cpus: linux
                .and_then(|linux| linux.resources().as_ref()?.cpu().as_ref()?.cpus().as_ref())
                .is_some_and(|cpus| !cpus.is_empty()),
            io_priority: process.io_priority().as_ref().map(sched::io_priority).transpose()?,
            memory_policy: linux
                .and_then(|linux| linux.memory_policy().as_ref())
                .map(MemoryPolicy::plan)
                .transpose()?,
            personality: linux
                .and_then(|linux| linux.personality().as_ref())
                .map(sched::personality)
                .transpose()?,
            labels: lsm::plan(
                process.apparmor_profile().as_deref(),
                process.selinux_label().as_deref(),
            )?,
            filter: around.filter,
            terminal,
            kept_fds: around.preserve_fds,
            affinity,
            rootless: around.rootless,
            warnings,
            entered: false,
            by_stub: false,
            stub: None,
        }
        .decide_stub(around.user_namespace))
    }

    /// Whether [`Plan::prepare`] needs `/proc/self`.
    pub(crate) fn needs_proc(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Adjusts how likely the kernel kills a process (`self` or a number) when memory is short.
    /// The caller's `/proc` must still be there.
    pub(crate) fn set_oom_score(&self, process: &str) -> Done<()> {
        let Some(score) = self.oom_score_adj else { return Ok(()) };
        let text = score.to_string();
        let path = crate::path::c_path(format!("/proc/{process}/oom_score_adj").as_ref())?;
        let written = sys::open(&path, libc::O_WRONLY, 0)
            .and_then(|fd| sys::write_once(fd.as_fd(), text.as_bytes()));
        match written {
            Err(nix::errno::Errno::EACCES | nix::errno::Errno::EPERM) if self.rootless => Ok(()),
            written => written.trying(|| format!("process.oomScoreAdj {score}")),
        }
    }

    /// What can be done and found out while the process still has all privileges: attributes that
    /// stay, and whether the program will be found. `own` is `/proc/self`, where labels need it;
    /// `ask` asks the parent to raise limits that this process may not raise.
    pub(crate) fn check(
        &mut self,
        root: &Root,
        own: Option<&OwnedFd>,
        ask: &mut dyn FnMut() -> Done<()>,
    ) -> Done<()> {
        if let Some(value) = self.personality {
            sched::set_personality(value).trying(|| "linux.personality")?;
        }
        if let Some(scheduler) = &self.scheduler {
            scheduler.apply().trying(|| match self.few_cpus {
                // A deadline needs all CPUs (sched_setattr(2)); runc's words.
                true => {
                    "process.scheduler: process scheduler can't be used together with AllowedCPUs"
                }
                false => "process.scheduler",
            })?;
        }
        if let Some(value) = self.io_priority {
            sched::set_io_priority(value).trying(|| "process.ioPriority")?;
        }
        if let Some(policy) = &self.memory_policy {
            policy.apply().trying(|| "linux.memoryPolicy")?;
        }
        if let Some(own) = own {
            self.labels.apply(own.as_fd())?;
        }
        if self.no_new_privileges {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).trying(|| "process.noNewPrivileges")?;
        }
        if self.limits.iter().any(|limit| limit.is_raise()) {
            ask()?;
        }
        self.identity.own_stdio()?;
        if self.program.wants_home() {
            let home = user::home(root, self.identity.uid);
            self.program.set_home(&home);
        }
        self.identity.set_groups()?;
        // The directory once as who we are, if that may go there; the program as who it will be.
        self.entered = self.program.enter().is_ok();
        let entered = self.entered;
        let program = &mut self.program;
        if entered && self.capabilities.holds(caps::DAC_OVERRIDE) {
            // Who it will be may execute what others could not.
            return program.find();
        }
        self.identity.looking_as(|| {
            if !entered {
                program.enter()?;
            }
            program.find()
        })
    }

    /// The root of another user namespace cannot write to this program's file anyway. A label is
    /// for the next exec, which must then be the program's; and a filter must allow the stub's calls.
    fn decide_stub(mut self, user_namespace: bool) -> Plan {
        let allowed = |filter: &Filter| {
            stub::CALLS.iter().all(|(number, arguments)| filter.allows(*number, *arguments))
        };
        self.by_stub =
            !user_namespace && self.labels.is_empty() && self.filter.as_ref().is_none_or(allowed);
        self
    }

    /// Gives up what the program does not have. Only [`Plan::confine`] and [`Plan::launch`] are left
    /// then; the latter may tell a failure to `caller`.
    pub(crate) fn settle(&mut self, caller: BorrowedFd<'_>) -> Done<()> {
        self.capabilities.limit().trying(|| "process.capabilities.bounding")?;
        self.identity.assume()?;
        self.during_wait().apply().trying(|| "process.capabilities")?;
        if !self.entered {
            self.program.enter()?;
        }
        user::set_umask(self.identity.umask.unwrap_or(0o022))?;
        sys::cloexec_from(3 + self.kept_fds).trying(|| "mark descriptors close-on-exec")?;
        if self.by_stub {
            // Made before limits may forbid it.
            self.stub = Stub::make(caller);
        }
        Ok(())
    }

    /// The capabilities until the filter is installed: without no_new_privs that takes one more.
    fn during_wait(&self) -> Sets {
        let mut sets = self.capabilities;
        if self.filter.is_some() && !self.no_new_privileges {
            sets.effective |= 1 << caps::SYS_ADMIN;
            sets.permitted |= 1 << caps::SYS_ADMIN;
        }
        sets
    }

    /// The parent's side of raising limits.
    pub(crate) fn raise_limits(&self, pid: i32) -> Done<()> {
        self.set_limits(pid)
    }

    fn set_limits(&self, pid: i32) -> Done<()> {
        self.limits.iter().try_for_each(|limit| limit.apply(pid).trying(|| limit.words()))
    }

    /// Installs a filter that notifies; its listener goes to the parent.
    pub(crate) fn install_notifying_filter(&mut self) -> Done<Option<OwnedFd>> {
        match &self.filter {
            Some(filter) if filter.notifies() => {
                let listener = install(filter)?;
                self.filter = None;
                Ok(listener)
            }
            _ => Ok(None),
        }
    }

    /// Installs the filter and gives up the last privileges: what runs from here on is held to all
    /// that the program is held to.
    pub(crate) fn confine(&self) -> Done<()> {
        self.set_limits(0)?;
        if let Some(filter) = &self.filter {
            install(filter)?;
            if !self.no_new_privileges && !self.capabilities.holds(caps::SYS_ADMIN) {
                self.capabilities.apply().trying(|| "process.capabilities")?;
            }
        }
        Ok(())
    }

    /// Executes the program. Returns only when that fails.
    pub(crate) fn launch(&self) -> Done<std::convert::Infallible> {
        self.program.execute(self.stub.as_ref())
    }
}

fn install(filter: &Filter) -> Done<Option<OwnedFd>> {
    filter.install().trying(|| "linux.seccomp: install the filter")
}
