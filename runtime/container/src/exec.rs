//! One more process in a running container.
//!
//! The child joins all namespaces by one `setns` of the first process' descriptor; only a user
//! namespace takes a process in between, as the privileges over the others come with it. What it
//! then is, is decided by the same code as for the container's first process.
//!
//! Where the container's processes may look into others (`CAP_SYS_PTRACE`) there is a process in
//! between as well: what comes into their sight must hold nothing of the host's then, no directory
//! least of all, and a child begins with all that its parent has. So there is where the caller
//! could not come back from the container's pid namespace.

use crate::cgroups::{self, Entry};
use crate::create::{self, kept_descriptors};
use crate::error::{Done, Failure, Trying};
use crate::path::Root;
use crate::process::{self, Surroundings, stdio};
use crate::sync::{Channel, Tag, failure_body};
use crate::sys::{self, CloneOptions, Cloned};
use crate::talk::{Child, Talk};
use crate::{Error, Record, Result};
use crate::{init, lifecycle, namespaces, pty, seccomp, userns};
use nix::sys::socket::SockType;
use oci::Status;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What [`exec`] is asked to run.
#[derive(Clone, Copy, Debug)]
pub struct ExecRequest<'a> {
    /// The process, in the shape of `config.json`'s `process`.
    pub process: &'a oci::spec::Process,
    /// The container's `config.json` (seccomp, rootless mappings, …).
    pub config: &'a oci::Config,
    /// Compiled system call filters are kept here.
    pub cache_dir: Option<&'a Path>,
    /// Unix socket to which the terminal's master is sent.
    pub console_socket: Option<&'a Path>,
    /// The terminal's newlines come out without a carriage return, see [`crate::pty::plain_newlines`].
    pub plain_newlines: bool,
    /// stdin, stdout and stderr; `None`: the caller's.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// How many descriptors from 3 on are kept.
    pub preserve_fds: u32,
    /// runc's `--cgroup`: a path below the container's cgroup, or `controllers:path`.
    pub cgroup: &'a [String],
    /// Do not refuse a paused container.
    pub ignore_paused: bool,
}

/// A process that was started in a container; a child of the caller, who waits for it.
#[derive(Debug)]
pub struct Exec {
    /// As the caller sees it.
    pub pid: i32,
    /// To poll and to signal.
    pub pidfd: OwnedFd,
    /// The terminal's master, when there is a terminal and no console socket.
    pub console: Option<OwnedFd>,
}

/// Runs one more process in a running container. Returns when the program was executed.
pub fn exec(record: &Record, request: &ExecRequest<'_>) -> Result<Exec> {
    let init = lifecycle::open_init(record)
        .map_err(|_| Error::Status { operation: "exec in", status: Status::Stopped })?;
    if !request.ignore_paused && record.cgroup.frozen().unwrap_or(false) {
        return Err(Error::Status { operation: "exec in", status: Status::Paused });
    }
    let linux = request.config.spec.linux().as_ref();
    let mut kinds = namespaces::own_flags(linux);
    if kinds & libc::CLONE_NEWUSER != 0 && same_user_namespace(record.pid) {
        kinds &= !libc::CLONE_NEWUSER;
    }
    if record.restored_time {
        kinds |= libc::CLONE_NEWTIME;
    }
    let user_namespace = kinds & libc::CLONE_NEWUSER != 0;
    let filter = linux
        .and_then(|linux| linux.seccomp().as_ref())
        .map(|seccomp| seccomp::compile(seccomp, request.cache_dir))
        .transpose()?;
    let (kept_fds, environment) = kept_descriptors(request.preserve_fds)?;
    let process = process::Plan::new(
        request.process,
        Surroundings {
            linux,
            filter,
            user_namespace,
            rootless: record.rootless,
            preserve_fds: kept_fds,
            plain_newlines: request.plain_newlines,
            environment,
            exec: true,
        },
    )?;
    for warning in &process.warnings {
        tracing::warn!("{warning}");
    }
    let console = match request.console_socket {
        Some(_) if process.terminal.is_none() => {
            return Err(Error::value("--console-socket", "needs a terminal (--tty)"));
        }
        Some(path) => Some(pty::connect_to(path, SockType::Stream)?),
        None => None,
    };
    let beside = || -> Result<Option<Entry>> {
        // runc's `--cgroup` means that one and no other.
        if request.cgroup.is_empty() {
            Ok(record.cgroup.entry_beside(record.pid)?)
        } else {
            Ok(None)
        }
    };
    let mut entry = match record.cgroup.entry(request.cgroup) {
        Err(error) if !record.cgroup.exists() => beside()?.ok_or(error)?,
        entry => entry?,
    };
    if process.affinity.is_some()
        && record.cgroup.is_divided()
        && let Some(other) = beside()?
    {
        entry = other;
    }
    if process.affinity.is_some() {
        // The first affinity is for the time before the move.
        entry.without_into()?;
    }
    let root = if kinds & libc::CLONE_NEWNS == 0 {
        let path = format!("/proc/{}/root", record.pid);
        Some(std::fs::File::open(&path).map_err(|source| Error::sys("open", path, source))?.into())
    } else {
        None
    };
    let state = oci::State {
        oci_version: request.config.spec.version().clone(),
        id: record.id.clone(),
        status: Status::Running,
        pid: Some(record.pid),
        bundle: Default::default(),
        annotations: Default::default(),
    };
    let (here, there) =
        Channel::pair().map_err(|error| Error::sys("make", "a pair of sockets", error))?;
    let mut joiner = Joiner {
        init,
        kinds,
        two_steps: user_namespace
            || (kinds & libc::CLONE_NEWPID != 0 && (may_look(request) || !may_come_back())),
        root,
        entry,
        process,
        stdio: request.stdio,
        keyring: (!record.no_keyring).then(|| create::keyring(&record.id)),
    };
    // The steps have the names of runc's debug log: its users look for them there.
    tracing::debug!("nsexec container setup: join namespaces {kinds:#x} of {}", record.pid);
    let mut cloned = joiner.clone();
    // A cgroup v2 that has given controllers to groups below takes no process itself.
    if let Err(Error::Sys { source, .. }) = &cloned
        && source.raw_os_error() == Some(libc::EBUSY)
        && let Some(other) = beside()?
    {
        joiner.entry = other;
        cloned = joiner.clone();
    }
    if let Err(Error::Sys { source, .. }) = &cloned
        && source.raw_os_error() == Some(libc::EACCES)
        && record.cgroup.can_attach()
    {
        joiner.entry.by_creator();
        cloned = joiner.clone();
    }
    let cloned = cloned.map_err(|error| match (error, request.cgroup.first()) {
        (Error::Sys { source, .. }, Some(argument))
            if source.raw_os_error() == Some(libc::EBUSY) =>
        {
            cgroups::Error::BusySub { argument: argument.clone(), source }.into()
        }
        (error, _) => error,
    })?;
    let (pid, pidfd) = match cloned {
        Cloned::Child => {
            drop(here);
            joiner.begin(there);
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(there);
    tracing::debug!("child process in init(): {pid}; setns_init: about to exec");
    let mut talk = Talk {
        channel: here,
        child: Child::new(pid, pidfd),
        console: None,
        process: &joiner.process,
        state: &state,
        cgroup: &record.cgroup,
        making: None,
    };
    // The terminal is passed on as soon as it is there: the other side may wait for it.
    talk.until_executed()?;
    let Talk { mut child, console: master, .. } = talk;
    let master = match (console, master) {
        (Some(socket), Some(master)) => {
            pty::send_over(socket.as_fd(), master.as_fd())?;
            None
        }
        (_, master) => master,
    };
    let pidfd = child
        .pidfd
        .try_clone()
        .map_err(|source| Error::sys("copy", "a process descriptor", source))?;
    child.keep();
    Ok(Exec { pid: child.pid, pidfd, console: master })
}

/// Whether a process is in this process' user namespace (which cannot be joined again).
fn same_user_namespace(pid: i32) -> bool {
    namespaces::is_shared(pid, "user") == Some(true)
}

/// Whether processes of the container can look into others that hide from their like.
fn may_look(request: &ExecRequest<'_>) -> bool {
    let first = request.config.spec.process().as_ref();
    [first, Some(request.process)].into_iter().flatten().any(|process| {
        // None given: what runc's callers leave out is not taken away everywhere.
        let Some(sets) = process.capabilities() else { return true };
        [sets.bounding(), sets.permitted(), sets.effective(), sets.inheritable(), sets.ambient()]
            .into_iter()
            .flatten()
            .any(|set| set.contains(&oci::spec::Capability::SysPtrace))
    })
}

/// Whether this process, having sent its children to another pid namespace, may have them in its
/// own again: not as the root of a user namespace which its pid namespace does not belong to, as
/// engines run by an ordinary user have it.
fn may_come_back() -> bool {
    sys::open(c"/proc/self/ns/pid", libc::O_RDONLY, 0)
        .and_then(|own| sys::setns(own.as_fd(), libc::CLONE_NEWPID))
        .is_ok()
}

/// All that the child needs.
struct Joiner<'a> {
    init: OwnedFd,
    /// `CLONE_NEW*` of what is joined.
    kinds: i32,
    /// A process in between joins, and makes the container's: there is a user namespace to join
    /// first, or the container's processes may look into this one from its first moment on, or
    /// this process could not leave the container's pid namespace again.
    two_steps: bool,
    /// The container's root, when its mount namespace is not its own.
    root: Option<OwnedFd>,
    entry: Entry,
    process: process::Plan,
    stdio: Option<[BorrowedFd<'a>; 3]>,
    keyring: Option<String>,
}

impl Joiner<'_> {
    /// Makes the child. In one step, it is born in the pid namespace.
    fn clone(&self) -> Result<Cloned> {
        let failed = |what| move |error| Error::sys("make", what, error);
        let options = CloneOptions { cgroup: Entry::into(&self.entry), ..CloneOptions::default() };
        let into_pid = self.kinds & libc::CLONE_NEWPID != 0 && !self.two_steps;
        let own = if into_pid {
            let own = sys::open(c"/proc/self/ns/pid", libc::O_RDONLY, 0)
                .map_err(failed("a way back to the own pid namespace"))?;
            sys::setns(self.init.as_fd(), libc::CLONE_NEWPID)
                .map_err(|error| Error::sys("join", "the container's pid namespace", error))?;
            Some(own)
        } else {
            None
        };
        // Until it executes its program the child is this program, in the container's sight:
        // nobody in there is to look into its memory or at its file.
        let dumpable = sys::prctl(libc::PR_GET_DUMPABLE, 0, 0).unwrap_or(1);
        let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
        // SAFETY: that the caller has a single thread is this crate's contract.
        let cloned = unsafe { sys::clone3(&options) };
        if !matches!(cloned, Ok(Cloned::Child)) {
            let _ = sys::prctl(libc::PR_SET_DUMPABLE, dumpable as u64, 0);
            if let Some(own) = own {
                sys::setns(own.as_fd(), libc::CLONE_NEWPID)
                    .map_err(|error| Error::sys("leave", "the container's pid namespace", error))?;
            }
        }
        cloned.map_err(failed("a process in the container"))
    }

    fn begin(mut self, channel: Channel) -> ! {
        if let Err(failure) = self.join(&channel) {
            let _ = channel.send(Tag::Failed, &failure_body(&failure), &[]);
        }
        sys::exit(1)
    }

    /// Into the container. Returns only with a failure.
    fn join(&mut self, channel: &Channel) -> Done<()> {
        if let Some((first, _)) = self.process.affinity.as_ref().filter(|(f, _)| !f.is_empty()) {
            first.set_affinity().trying(|| "process.execCPUAffinity.initial")?;
            if let Ok(mask) = process::own_affinity() {
                tracing::debug!("nsexec: affinity: {mask}");
            }
        }
        if self.entry.is_by_creator() {
            init::ask(channel, Tag::Cgroup)?;
        }
        self.entry.join().trying(|| "join the cgroup")?;
        process::reset_affinity();
        if let Some((_, last)) = self.process.affinity.as_ref().filter(|(_, l)| !l.is_empty()) {
            last.set_affinity().trying(|| "process.execCPUAffinity.final")?;
        }
        self.process.set_oom_score("self")?;
        let proc = if self.process.needs_proc() {
            let fd = sys::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0);
            Some(fd.trying(|| "open /proc")?)
        } else {
            None
        };
        let mut kinds = self.kinds;
        if !self.two_steps {
            kinds &= !libc::CLONE_NEWPID;
        }
        if kinds != 0 {
            sys::setns(self.init.as_fd(), kinds).trying(|| "join the container's namespaces")?;
        }
        if kinds & libc::CLONE_NEWUSER != 0 {
            userns::become_root(true).trying(|| "become root in the container's user namespace")?;
        }
        if let Some(root) = &self.root {
            nix::unistd::fchdir(root).trying(|| "enter the container's root")?;
            nix::unistd::chroot(".").trying(|| "enter the container's root")?;
        }
        if !self.two_steps {
            return self.inside(channel, proc);
        }
        self.let_go(channel, proc.as_ref())?;
        let options = CloneOptions { sibling: true, ..CloneOptions::default() };
        // SAFETY: this process is a clone of a single-threaded one.
        let cloned =
            unsafe { sys::clone3(&options) }.trying(|| "make a process in the container")?;
        match cloned {
            Cloned::Child => {
                // The caller has to know who speaks before anything is said.
                match channel.receive().trying(|| "hear from the caller")? {
                    Some(message) if message.tag == Tag::Go => {}
                    _ => return Err(Failure::plain("the caller is gone")),
                }
                self.inside(channel, proc)
            }
            Cloned::Parent { pid, .. } => {
                channel.send(Tag::Pid, &pid.to_le_bytes(), &[]).trying(|| "speak to the caller")?;
                sys::exit(0)
            }
        }
    }

    /// Closes whatever the caller had open and the container's process does not need.
    fn let_go(&mut self, channel: &Channel, proc: Option<&OwnedFd>) -> Done<()> {
        drop(std::mem::take(&mut self.entry));
        let mut needed = vec![channel.fd().as_raw_fd()];
        needed.extend(proc.map(AsRawFd::as_raw_fd));
        needed.extend(self.stdio.iter().flatten().map(AsRawFd::as_raw_fd));
        needed.sort_unstable();
        // Nothing after this uses a descriptor that was opened before, and this process is never
        // left by way of what owns one.
        let mut first = 3 + self.process.kept_fds;
        for number in needed.into_iter().filter_map(|number| u32::try_from(number).ok()) {
            if number >= first {
                sys::close_between(first, number.saturating_sub(1))
                    .trying(|| "close what the caller had open")?;
                first = number + 1;
            }
        }
        sys::close_between(first, u32::MAX).trying(|| "close what the caller had open")
    }

    fn inside(&mut self, channel: &Channel, proc: Option<OwnedFd>) -> Done<()> {
        init::quiet_signals();
        nix::unistd::setsid().trying(|| "begin a session")?;
        if let Some(name) = &self.keyring {
            init::join_keyring(name)?;
        }
        let own = proc
            .map(|proc| {
                let flags = libc::O_PATH | libc::O_DIRECTORY;
                sys::openat2(proc.as_fd(), c"thread-self", flags, 0, 0)
            })
            .transpose()
            .trying(|| "open /proc/thread-self")?;
        let root = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY, 0)
            .trying(|| "open the container's root")?;
        let root = Root::new(root);
        match (self.process.terminal, self.stdio) {
            (Some(modes), _) => {
                let (master, slave) = stdio::open_terminal(&root, modes)?;
                channel
                    .send(Tag::Console, &[], &[master.as_fd()])
                    .trying(|| "pass the terminal on")?;
                stdio::use_terminal(slave)?;
            }
            (None, Some(fds)) => stdio::install(fds)?,
            (None, None) => {}
        }
        let ask = &mut || {
            channel.send(Tag::Limits, &[], &[]).trying(|| "speak to the caller")?;
            match channel.receive().trying(|| "hear from the caller")? {
                Some(message) if message.tag == Tag::Go => Ok(()),
                _ => Err(Failure::plain("the caller is gone")),
            }
        };
        self.process.check(&root, own.as_ref(), ask)?;
        if let Some(listener) = self.process.install_notifying_filter()? {
            channel
                .send(Tag::Listener, &[], &[listener.as_fd()])
                .trying(|| "pass the filter's listener on")?;
        }
        self.process.settle(channel.fd())?;
        self.process.confine()?;
        self.process.launch().map(|never| match never {})
    }
}
