//! Making a container: plans, clone, hooks, and a guard that undoes everything.

use crate::cgroups::{Cgroup, Entry};
use crate::error::Done;
use crate::init::{self, Init};
use crate::mounts::apply::{Sources, open_source};
use crate::mounts::idmap::IdMaps;
use crate::mounts::plan::{Kind as StepKind, Step};
use crate::rootfs::{self, Propagation, SharedRoot, Switch};
use crate::sync::{Channel, Tag};
use crate::sys::{self, CloneOptions, Cloned};
use crate::talk::{Child, HostWork, Making, Talk};
use crate::{Error, Guard, Plan, Record, Result, Rootless};
use crate::{lifecycle, pty, rdt};
use nix::sys::socket::SockType;
use oci::spec::LinuxNamespaceType as Kind;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What [`create`] is asked to make.
#[derive(Clone, Copy, Debug)]
pub struct CreateRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The validated `config.json`.
    pub config: &'a oci::Config,
    /// Absolute path of the bundle.
    pub bundle: &'a Path,
    /// The container's state directory: exists, mode 0700; the socket to start by is made in it.
    pub state_dir: &'a Path,
    /// Where compiled system call filters are kept; none, none are kept.
    pub cache_dir: Option<&'a Path>,
    /// Unix socket to which the terminal's master is sent.
    pub console_socket: Option<&'a Path>,
    /// The terminal's newlines come out without a carriage return, see [`crate::pty::plain_newlines`].
    pub plain_newlines: bool,
    /// The container's stdin, stdout and stderr; `None`: the caller's. Not looked at with a terminal.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// How many descriptors from 3 on the container's process keeps (beside those of `LISTEN_FDS`).
    pub preserve_fds: u32,
    /// Do not use `pivot_root`: move the root mount and `chroot`.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Make the cgroup through systemd.
    pub systemd_cgroup: bool,
    /// Whether privileges are missing.
    pub rootless: Rootless,
    /// The caller starts the container itself ([`Created::start`]): no socket for others to start
    /// it is made.
    pub foreground: bool,
    /// Undoes everything if this process is killed; told of what is made.
    pub guard: Option<&'a Guard>,
}

/// A container that was made and waits to be started. Dropped without [`Created::keep`],
/// everything is undone: process, cgroup, socket, mounts.
#[derive(Debug)]
pub struct Created {
    record: Record,
    channel: Channel,
    console: Option<OwnedFd>,
    child: Child,
    cgroup: Option<Cgroup>,
    rdt: Option<rdt::Group>,
    socket: Option<lifecycle::StartSocket>,
    shared_root: rootfs::Making,
    started: bool,
}

/// Makes a container: its first process waits for [`Created::start`] or [`crate::start`].
/// Hooks run: prestart, createRuntime, createContainer.
pub fn create(request: &CreateRequest<'_>) -> Result<Created> {
    let spec = &request.config.spec;
    let linux = spec.linux().as_ref();
    let plan = Plan::new(request)?;
    for warning in &plan.process.warnings {
        tracing::warn!("{warning}");
    }
    let Plan { namespaces, mappings, rootless, process, rootfs, propagation, steps, .. } = plan;
    let Plan { mount_label, sysctl, devices, cgroup, .. } = plan;
    let user_namespace = namespaces.has(Kind::User);
    let console = console_socket(request, process.terminal.is_some())?;
    let idmaps = IdMaps::make(&steps, Some(&mappings))?;
    let early = user_namespace || propagation.is_shared();
    let (tree, trees) = if namespaces.has(Kind::Mount) && early && !namespaces.joins(Kind::Mount) {
        open_early(&rootfs, &steps, &idmaps, propagation, rootless)?
    } else {
        (None, Vec::new())
    };
    // What it mounts is mounted in the caller's namespace then.
    let root_readonly = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let mounts_here = !namespaces.has(Kind::Mount) && (root_readonly || !steps.is_empty());
    let mut shared_root = rootfs::Making(None);
    let tree = if mounts_here {
        let note = |path: &CStr, id| {
            if let Some(guard) = request.guard {
                guard.mount(path, id);
            }
        };
        let (root, tree) = SharedRoot::make(&rootfs, &note).map_err(Error::Init)?;
        shared_root.0 = Some(root);
        Some(tree)
    } else {
        tree
    };
    let cgroup = cgroup.create_noting(&|path, about_to| {
        if let Some(guard) = request.guard {
            guard.directory(path, about_to);
        }
    })?;
    let rdt = linux
        .and_then(|linux| linux.intel_rdt().as_ref())
        .map(|rdt| rdt::Group::create(rdt, request.id))
        .transpose()?;
    let socket = if request.foreground {
        None
    } else {
        Some(lifecycle::StartSocket::make(request.state_dir)?)
    };
    let hierarchies = match steps.iter().any(|step| step.kind == StepKind::Cgroup) {
        true => cgroup.mounts(),
        false => Vec::new(),
    };
    let state = state(request, oci::Status::Creating);
    let host = HostWork { spec, rdt: rdt.as_ref() };
    let parent_acts = host.is_needed();
    let has_root = mappings.has_root();
    let switch = match (namespaces.has(Kind::Mount), request.no_pivot) {
        (false, _) => Switch::Shared,
        (true, true) => Switch::Chroot,
        (true, false) => Switch::Pivot,
    };
    let shared_pid = !namespaces.has(Kind::Pid);
    let (here, there) =
        Channel::pair().map_err(|error| Error::sys("make", "a pair of sockets", error))?;
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let mut init = Init {
        state: state.clone(),
        has_root,
        user_namespace,
        entry: cgroup.entry()?,
        hierarchies,
        rootfs,
        tree,
        propagation,
        switch,
        sources: Sources { trees, idmaps },
        mount_label,
        devices,
        sysctl,
        hostname: text(spec.hostname()),
        domainname: text(spec.domainname()),
        masked: list(linux.and_then(|linux| linux.masked_paths().as_ref())),
        readonly: list(linux.and_then(|linux| linux.readonly_paths().as_ref())),
        root_readonly,
        hooks: spec.hooks().as_ref(),
        parent_acts,
        keyring: (!request.no_new_keyring).then(|| keyring(request.id)),
        process,
        stdio: request.stdio,
        listener: match &socket {
            Some(socket) => Some(socket.listener()?),
            None => None,
        },
        steps,
        namespaces,
    };
    let two_steps = init.namespaces.in_two_steps();
    let cgroup_record = cgroup.record();
    let new = if two_steps { 0 } else { init.namespaces.clone_flags() };
    let mut options =
        CloneOptions { namespaces: new, cgroup: Entry::into(&init.entry), sibling: false };
    // The steps have the names of runc's debug log: its users look for them there.
    tracing::debug!(
        "nsexec container setup: namespaces {:#x}{}",
        init.namespaces.clone_flags(),
        if two_steps { ", in two steps" } else { "" }
    );
    // SAFETY: that the caller has a single thread is this crate's contract.
    let mut cloned = unsafe { sys::clone3(&options) };
    if cloned.as_ref().err() == Some(&nix::Error::EACCES) && cgroup_record.can_attach() {
        init.entry.by_creator();
        options = CloneOptions { namespaces: new, ..CloneOptions::default() };
        // SAFETY: as above.
        cloned = unsafe { sys::clone3(&options) };
    }
    let cloned = cloned.map_err(|error| Error::sys("make", "the container's process", error))?;
    let (pid, pidfd) = match cloned {
        Cloned::Child => {
            drop(here);
            // What the parent unmakes when it fails is not the child's to unmake.
            std::mem::forget((cgroup, rdt, socket, shared_root));
            init::begin(init, there)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(there);
    if let Some(guard) = request.guard.filter(|_| !two_steps) {
        guard.init(pid);
    }
    let mut talk = Talk {
        channel: here,
        child: Child::new(pid, pidfd),
        console: None,
        process: &init.process,
        state: &state,
        cgroup: &cgroup_record,
        making: Some(Making { mappings, host, steps: &init.steps, idmaps: &init.sources.idmaps }),
    };
    let outcome = talk.until_ready();
    let Talk { channel, child, console: master, .. } = talk;
    outcome?;
    tracing::debug!("child process in init(): {} has its root and waits for start", child.pid);
    let mut cgroup = cgroup;
    cgroup.joined()?;
    let master = match (console, master) {
        (Some(socket), Some(master)) => {
            pty::send_over(socket.as_fd(), master.as_fd())?;
            None
        }
        (_, master) => master,
    };
    let record = Record {
        id: request.id.to_owned(),
        pid: child.pid,
        start_time: lifecycle::start_time(child.pid)?,
        cgroup: cgroup.record(),
        rdt: rdt.as_ref().map(rdt::Group::record),
        no_keyring: request.no_new_keyring,
        rootless,
        shared_pid,
        restored_time: false,
        shared_root: shared_root.0.clone(),
    };
    Ok(Created {
        record,
        channel,
        console: master,
        child,
        cgroup: Some(cgroup),
        rdt,
        socket,
        shared_root,
        started: false,
    })
}

/// The name of a container's session keyring, which `exec` joins too.
pub(crate) fn keyring(id: &str) -> String {
    format!("_ses.{id}")
}

/// The state that hooks see.
fn state(request: &CreateRequest<'_>, status: oci::Status) -> oci::State {
    let spec = &request.config.spec;
    oci::State {
        oci_version: spec.version().clone(),
        id: request.id.to_owned(),
        status,
        pid: None,
        bundle: request.bundle.to_owned(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
    }
}

/// How many descriptors from 3 on are kept, and what the program is told of them. As with crun and
/// youki it is no error if the caller has not that many: those of this program close on exec.
pub(crate) fn kept_descriptors(preserve: u32) -> Result<(u32, Vec<String>)> {
    let listening =
        std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let count = preserve.saturating_add(listening);
    let environment = if listening > 0 {
        vec![format!("LISTEN_FDS={listening}"), "LISTEN_PID=1".to_owned()]
    } else {
        Vec::new()
    };
    Ok((count, environment))
}

fn console_socket(request: &CreateRequest<'_>, terminal: bool) -> Result<Option<OwnedFd>> {
    match request.console_socket {
        Some(_) if !terminal => {
            Err(Error::value("--console-socket", "cannot be used when process.terminal is false"))
        }
        Some(path) => pty::connect_to(path, SockType::Stream).map(Some),
        None => Ok(None),
    }
}

type Opened = (Option<OwnedFd>, Vec<Option<OwnedFd>>);

/// Opens rootfs and bind sources from here: the container's own root may not be allowed to, and
/// mounts that stay shared must be taken before anything is cut off.
fn open_early(
    rootfs: &Path,
    steps: &[Step],
    idmaps: &IdMaps,
    propagation: Propagation,
    rootless: bool,
) -> Result<Opened> {
    let cut = propagation.of_early_source();
    let open = |done: Done<OwnedFd>| match done {
        Ok(fd) => Ok(Some(fd)),
        // An ordinary user may not; the container's process is root in its namespaces and may.
        Err(failure) if rootless && failure.errno == libc::EPERM => Ok(None),
        Err(failure) => Err(Error::Init(failure)),
    };
    let tree = open(rootfs::open_tree(rootfs, cut))?;
    let trees = steps
        .iter()
        .map(|step| match step.kind {
            StepKind::Bind { inside: None, .. } => open(open_source(step, idmaps, cut)),
            _ => Ok(None),
        })
        .collect::<Result<_>>()?;
    Ok((tree, trees))
}

impl Created {
    /// The container's first process, a child of the caller.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// A descriptor of the container's first process (to poll; readable when it ended).
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// What the state file is to remember.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The terminal's master, when the container has a terminal and no console socket was given.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Lets the user's program begin: startContainer hooks, then exec. A failing exec is the error.
    pub fn start(&mut self) -> Result<()> {
        tracing::debug!("init: closing the pipe to signal completion: the program begins");
        let gone = |error| Error::sys("speak to", "the container's process", error);
        self.channel.send(Tag::Start, &[], &[]).map_err(gone)?;
        self.started = true;
        // Nobody else is to start it.
        self.socket = None;
        match self.channel.receive().map_err(gone)? {
            None => Ok(()),
            Some(message) => Err(Error::of_start(message.failure())),
        }
    }

    /// Lets the container live on.
    pub fn keep(mut self) -> Record {
        if !self.started {
            let _ = self.channel.send(Tag::Keep, &[], &[]);
        }
        self.child.keep();
        if let Some(cgroup) = self.cgroup.take() {
            self.record.cgroup = cgroup.keep();
        }
        if let Some(rdt) = self.rdt.take() {
            self.record.rdt = Some(rdt.keep());
        }
        if let Some(socket) = self.socket.take() {
            socket.keep();
        }
        self.shared_root.0 = None;
        self.record.clone()
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.child.is_kept() {
            return;
        }
        self.child.reap();
        if let Some(cgroup) = &self.cgroup {
            // With the pid namespace of others its children do not end with it.
            if self.record.shared_pid {
                let _ = cgroup.record().kill_all();
            }
        }
    }
}
