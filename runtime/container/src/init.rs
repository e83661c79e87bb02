//! The container's first process, from the clone to the user's program.
//!
//! It reads like the life it leads: namespaces, identity, cgroup, root, hooks, the new root, the
//! attributes of the process, waiting, the program. All decisions were taken by the parent; what
//! fails is told to it in words; when it is gone, so is this process.

use crate::cgroups::{Entry, Hierarchy};
use crate::devices;
use crate::error::{Done, Failure, Trying};
use crate::hooks::{self, Kind as HookKind};
use crate::mounts::apply::{Context, Sources};
use crate::mounts::plan::{Kind as StepKind, Step};
use crate::namespaces::Namespaces;
use crate::path::{Make, Root, clean};
use crate::process::{self, stdio};
use crate::rootfs::{self, Propagation, Switch};
use crate::sync::{Channel, Tag, failure_body};
use crate::sys::{self, CloneOptions, Cloned};
use crate::{netdev, sysctl, userns};
use oci::spec::{Hook, Hooks, LinuxNamespaceType as Kind};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// All that the child needs, computed by the parent.
pub(crate) struct Init<'a> {
    pub(crate) state: oci::State,
    pub(crate) namespaces: Namespaces,
    /// User 0 exists in the container's user namespace.
    pub(crate) has_root: bool,
    /// The container's user namespace is not the caller's.
    pub(crate) user_namespace: bool,
    pub(crate) entry: Entry,
    pub(crate) hierarchies: Vec<Hierarchy>,
    pub(crate) rootfs: PathBuf,
    /// The rootfs, when it was opened by the parent.
    pub(crate) tree: Option<OwnedFd>,
    pub(crate) propagation: Propagation,
    pub(crate) switch: Switch,
    pub(crate) steps: Vec<Step>,
    pub(crate) sources: Sources,
    pub(crate) mount_label: Option<String>,
    pub(crate) devices: devices::Plan,
    pub(crate) sysctl: sysctl::Plan,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) masked: Vec<String>,
    pub(crate) readonly: Vec<String>,
    pub(crate) root_readonly: bool,
    pub(crate) hooks: Option<&'a Hooks>,
    /// The parent has to do something while the namespaces are there and the old root is still
    /// the root: hooks, network devices, resctrl.
    pub(crate) parent_acts: bool,
    /// Name of the session keyring; none: the caller's is kept.
    pub(crate) keyring: Option<String>,
    pub(crate) process: process::Plan,
    pub(crate) stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Listens for a start from another process.
    pub(crate) listener: Option<OwnedFd>,
}

/// What the parent told a waiting child.
enum Word {
    Start,
    Keep,
}

/// The child's side of the clone.
pub(crate) fn begin(mut init: Init<'_>, channel: Channel) -> ! {
    let result = if init.namespaces.in_two_steps() {
        init.in_between(&channel)
    } else {
        init.container(&channel, None)
    };
    if let Err(failure) = result {
        // A creator that was killed is not told; what it made is its guard's to undo.
        let _ = channel.send(Tag::Failed, &failure_body(&failure), &[]);
    }
    sys::exit(1)
}

/// Waits for the parent's answer.
fn answer(channel: &Channel) -> Done<Vec<u8>> {
    match channel.receive().trying(|| "hear from the creator")? {
        Some(message) if message.tag == Tag::Go => Ok(message.body),
        Some(message) if message.tag == Tag::Failed => Err(message.failure()),
        _ => Err(Failure::plain("the creator is gone")),
    }
}

/// Asks the creator for something, and waits until it is done.
pub(crate) fn ask(channel: &Channel, tag: Tag) -> Done<Vec<u8>> {
    channel.send(tag, &[], &[]).trying(|| "speak to the creator")?;
    answer(channel)
}

impl Init<'_> {
    /// Joins namespaces that only children live in, and makes the container's process.
    fn in_between(&mut self, channel: &Channel) -> Done<()> {
        let mut flags = self.namespaces.clone_flags();
        if self.namespaces.joins(Kind::User) {
            // As another user's root it may not any more; its child inherits it.
            self.process.set_oom_score("self")?;
        }
        let joined = self.namespaces.join_before()?;
        if joined.contains(&Kind::User) {
            userns::become_root(true).trying(|| "become root in the joined user namespace")?;
        }
        let user = libc::CLONE_NEWUSER as u64;
        let mut mapped = false;
        if flags & user != 0 && self.namespaces.needs_time_step() {
            // Its time namespace belongs to the user namespace, so that comes first.
            sys::unshare(libc::CLONE_NEWUSER).trying(|| "make a user namespace")?;
            self.take_identity(channel)?;
            flags &= !user;
            mapped = true;
        }
        self.namespaces.make_time()?;
        let options = CloneOptions { namespaces: flags, sibling: true, ..CloneOptions::default() };
        // SAFETY: this process is a clone of a single-threaded one.
        let cloned = unsafe { sys::clone3(&options) }
            .trying(|| "linux.namespaces: make the container's process")?;
        match cloned {
            Cloned::Child => self.container(channel, Some((joined, mapped))),
            Cloned::Parent { pid, .. } => {
                channel
                    .send(Tag::Pid, &pid.to_le_bytes(), &[])
                    .trying(|| "speak to the creator")?;
                sys::exit(0)
            }
        }
    }

    /// Gets the ids of a user namespace that was just made, and becomes its root.
    fn take_identity(&self, channel: &Channel) -> Done<()> {
        let may_set_groups = ask(channel, Tag::Mapping)?.first() == Some(&1);
        if self.has_root {
            userns::become_root(may_set_groups).trying(|| "become root in the user namespace")?;
        }
        // Another identity hides `/proc/self` from the process itself. Nobody else is in here yet.
        sys::prctl(libc::PR_SET_DUMPABLE, 1, 0).trying(|| "keep the own /proc files")?;
        Ok(())
    }

    /// The container's process. Returns only with a failure.
    fn container(&mut self, channel: &Channel, between: Option<(Vec<Kind>, bool)>) -> Done<()> {
        let mut joined = Vec::new();
        let mut mapped = false;
        if let Some((kinds, user)) = between {
            // The creator has to know who speaks before anything is said.
            answer(channel)?;
            (joined, mapped) = (kinds, user);
        }
        if self.namespaces.makes(Kind::User) && !mapped {
            self.take_identity(channel)?;
        }
        if !self.namespaces.has(Kind::User) {
            // Otherwise it was done by who had the privilege.
            self.process.set_oom_score("self")?;
        }
        self.namespaces.join(&joined)?;
        quiet_signals();
        nix::unistd::setsid().trying(|| "begin a session")?;
        if let Some(name) = &self.keyring {
            join_keyring(name)?;
        }
        process::clear_umask();
        if self.entry.is_by_creator() {
            ask(channel, Tag::Cgroup)?;
        }
        self.entry.join().trying(|| "join the cgroup")?;
        process::reset_affinity();
        self.namespaces.enter_cgroup()?;
        self.name_host()?;
        if self.namespaces.makes(Kind::Network) {
            netdev::loopback_up().trying(|| "set the loopback device up")?;
        }
        sysctl::apply(&self.sysctl)?;
        let own = self.own_proc()?;
        let (root, terminal) = self.make_root(channel)?;
        if self.parent_acts {
            ask(channel, Tag::Hooks)?;
        }
        if self.hooks.is_some_and(|hooks| hooks.create_container().is_some()) {
            // Where runc's run: some reach the container's files by relative paths.
            nix::unistd::fchdir(root.fd()).trying(|| "enter the root")?;
        }
        self.hook(HookKind::CreateContainer)?;
        rootfs::protect(&root, &self.readonly)?;
        rootfs::mask(&root, &self.masked)?;
        if self.root_readonly {
            rootfs::make_read_only(&root)?;
        }
        rootfs::enter(&root, self.switch, self.propagation)?;
        let own_null = terminal.is_none() && self.namespaces.has(Kind::Mount);
        match (terminal, self.stdio) {
            (Some(slave), _) => stdio::use_terminal(slave)?,
            (None, Some(fds)) => stdio::install(fds)?,
            (None, None) => {}
        }
        if own_null {
            stdio::own_null(&root)?;
        }
        self.process.check(&root, own.as_ref(), &mut || ask(channel, Tag::Limits).map(drop))?;
        if let Some(listener) = self.process.install_notifying_filter()? {
            channel
                .send(Tag::Listener, &[], &[listener.as_fd()])
                .trying(|| "pass the filter's listener on")?;
        }
        channel.send(Tag::Ready, &[], &[]).trying(|| "speak to the creator")?;
        match word(channel)? {
            Word::Start => self.run(channel),
            Word::Keep => {
                end_by_signals();
                let Ok(caller) = self.wait() else { sys::exit(1) };
                // From here on a failure is told to who starts, not to who created.
                if let Err(failure) = self.run(&caller) {
                    let _ = caller.send(Tag::Failed, &failure_body(&failure), &[]);
                }
                sys::exit(1)
            }
        }
    }

    fn name_host(&self) -> Done<()> {
        if let Some(name) = &self.hostname {
            nix::unistd::sethostname(name).trying(|| format!("hostname {name:?}"))?;
        }
        if let Some(name) = &self.domainname {
            // SAFETY: the length given is the name's.
            let done = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
            sys::check(libc::c_long::from(done)).trying(|| format!("domainname {name:?}"))?;
        }
        Ok(())
    }

    /// `/proc/self` as long as it is surely the kernel's.
    fn own_proc(&self) -> Done<Option<OwnedFd>> {
        if !self.process.needs_proc() {
            return Ok(None);
        }
        let own = sys::open(c"/proc/thread-self", libc::O_PATH | libc::O_DIRECTORY, 0)
            .trying(|| "open /proc/thread-self")?;
        match sys::fs_magic(&own).trying(|| "open /proc/thread-self")? {
            libc::PROC_SUPER_MAGIC => Ok(Some(own)),
            _ => Err(Failure::plain("/proc is not a procfs")),
        }
    }

    /// Builds the container's root: mounts, devices, directories, terminal.
    fn make_root(&mut self, channel: &Channel) -> Done<(Root, Option<OwnedFd>)> {
        let root = if self.namespaces.has(Kind::Mount) {
            self.propagation.isolate()?;
            let tree = match self.tree.take() {
                Some(tree) => tree,
                None => rootfs::open_tree(&self.rootfs, None)?,
            };
            let hooked = self.hooks.is_some_and(enters_before_the_switch);
            rootfs::attach(tree, self.propagation, hooked.then_some(&self.rootfs))?
        } else if let Some(tree) = self.tree.take() {
            // Already mounted where it lies.
            Root::new(tree)
        } else {
            let path = crate::path::c_path(&self.rootfs)?;
            let fd = sys::open(&path, libc::O_PATH | libc::O_DIRECTORY, 0)
                .trying(|| format!("root.path {:?}", self.rootfs))?;
            Root::new(fd)
        };
        let steps = std::mem::take(&mut self.steps);
        let by_parent = |step: &Step, tree: BorrowedFd<'_>| {
            let index = i32::try_from(step.index).unwrap_or(-1);
            channel
                .send(Tag::Source, &index.to_le_bytes(), &[tree])
                .trying(|| "speak to the creator")?;
            answer(channel).map(drop)
        };
        let mut context = Context {
            root: &root,
            sources: &mut self.sources,
            hierarchies: &self.hierarchies,
            cgroup_namespace: self.namespaces.has(Kind::Cgroup),
            label: self.mount_label.as_deref(),
            user_namespace: self.user_namespace,
            by_parent: &by_parent,
            late_read_only: Vec::new(),
        };
        for step in &steps {
            context.apply(step)?;
        }
        let late = std::mem::take(&mut context.late_read_only);
        self.devices.apply(&root, self.user_namespace)?;
        let terminal = match self.process.terminal {
            Some(modes) => Some(self.make_terminal(&root, modes, &steps, channel)?),
            None => None,
        };
        let directory = clean(Path::new(&*self.process.program.directory().to_string_lossy()));
        if directory != Path::new("/") && !directory.starts_with("/proc") {
            // A directory that cannot be made is noticed when it is entered.
            let _ = root.open_or_make(&directory, Make::Directory);
        }
        for fd in late {
            crate::mounts::apply::make_read_only(fd.as_fd()).trying(|| "mounts: set read-only")?;
        }
        Ok((root, terminal))
    }

    fn make_terminal(
        &self,
        root: &Root,
        modes: crate::pty::Modes,
        steps: &[Step],
        channel: &Channel,
    ) -> Done<OwnedFd> {
        let (master, slave) = stdio::open_terminal(root, modes)?;
        let bound = steps.iter().any(|step| {
            step.destination == Path::new("/dev/console")
                || (step.destination == Path::new("/dev")
                    && matches!(step.kind, StepKind::Bind { .. }))
        });
        if !bound && self.namespaces.has(Kind::Mount) {
            devices::console(root, slave.as_fd())?;
        }
        channel.send(Tag::Console, &[], &[master.as_fd()]).trying(|| "pass the terminal on")?;
        Ok(slave)
    }

    fn hook(&self, kind: HookKind) -> Done<()> {
        let Some(given) = self.hooks else { return Ok(()) };
        let list = match kind {
            HookKind::CreateContainer => given.create_container(),
            HookKind::StartContainer => given.start_container(),
            _ => return Ok(()),
        };
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else { return Ok(()) };
        let mut state = self.state.clone();
        state.pid = Some(nix::unistd::getpid().as_raw());
        state.status = match kind {
            HookKind::StartContainer => oci::Status::Created,
            _ => oci::Status::Creating,
        };
        let mut list = list.to_vec();
        if kind == HookKind::StartContainer {
            // As the program's neighbour it has the program's environment unless it has its own.
            let without = |hook: &&mut Hook| hook.env().as_ref().is_none_or(Vec::is_empty);
            for hook in list.iter_mut().filter(without) {
                hook.set_env(Some(self.process.program.environment()));
            }
        }
        hooks::run(&list, kind, &state).map_err(|error| Failure::plain(error.to_string()))
    }

    /// Waits for `start` of another process; gives the way to answer it.
    fn wait(&mut self) -> Done<Channel> {
        let listener =
            self.listener.take().ok_or_else(|| Failure::plain("nothing to be started by"))?;
        // What else the creator had open (a lock on the state directory, say) is not to live on
        // here. Nothing after this uses a descriptor that was opened before.
        let number = listener.as_raw_fd() as u32;
        sys::close_between(3 + self.process.kept_fds, number.saturating_sub(1))
            .and_then(|()| sys::close_between(number + 1, u32::MAX))
            .trying(|| "close what the creator had open")?;
        loop {
            // SAFETY: null pointers ask for no address.
            let accepted = sys::owned(unsafe {
                libc::accept4(
                    listener.as_raw_fd(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_CLOEXEC,
                )
            } as libc::c_long);
            let caller = match accepted {
                Ok(caller) => Channel::from_fd(caller),
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNABORTED) => continue,
                Err(error) => return Err(error).trying(|| "wait for the start"),
            };
            // One that went away before it said so did not start anything.
            if let Ok(Some(message)) = caller.receive()
                && message.tag == Tag::Start
            {
                return Ok(caller);
            }
        }
    }

    /// Becomes the user's program. Returns only with a failure.
    fn run(&mut self, caller: &Channel) -> Done<()> {
        self.process.settle(caller.fd())?;
        // Before the hooks: they are the image's programs, and held to what the image is.
        self.process.confine()?;
        self.hook(HookKind::StartContainer)?;
        self.process.launch().map(|never| match never {})
    }
}

/// Whether there are hooks that may enter the namespaces while the old root is still the root.
fn enters_before_the_switch(hooks: &Hooks) -> bool {
    [hooks.prestart(), hooks.create_runtime()].into_iter().flatten().any(|list| !list.is_empty())
}

/// The parent's decision. Hearing nothing more means that it was killed.
fn word(channel: &Channel) -> Done<Word> {
    match channel.receive().trying(|| "hear from the creator")? {
        Some(message) if message.tag == Tag::Start => Ok(Word::Start),
        Some(message) if message.tag == Tag::Keep => Ok(Word::Keep),
        _ => Err(Failure::plain("the creator is gone")),
    }
}

/// Sets every signal back to what it is for a fresh process, and blocks none: whoever started the
/// runtime may have ignored some, and ignoring is inherited by exec.
pub(crate) fn quiet_signals() {
    // As the kernel has it, not the C library: that keeps two real-time signals for itself, which it
    // will not name, and which its own posix_spawn leaves ignored.
    let default: [usize; 4] = [libc::SIG_DFL, 0, 0, 0];
    let mask_size = size_of::<u64>();
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        // SAFETY: `default` is a struct sigaction of the kernel (handler, flags, restorer, mask of
        // eight bytes); the default action is no code of this program; nothing is written back.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &default,
                std::ptr::null::<u8>(),
                mask_size,
            )
        };
    }
    let none = nix::sys::signal::SigSet::empty();
    let _ = none.thread_set_mask();
}

/// Lets the usual signals end a container that was created only: as the first process of a pid
/// namespace it would not even notice them. The program's execution undoes this.
fn end_by_signals() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: ends the process, and is allowed in a handler.
        unsafe { libc::_exit(128 + signal) }
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler makes one system call and touches no memory.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// A session keyring of the container's own; its user may search it.
pub(crate) fn join_keyring(name: &str) -> Done<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    const KEYCTL_SETPERM: libc::c_long = 5;
    // What a new session keyring has, and search for its user: an exec'd process joins it by name.
    const PERMISSIONS: libc::c_long = 0x3f1b_0000;
    let name = CString::new(name).map_err(|_| Failure::plain("the keyring's name holds a NUL"))?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let joined = sys::check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    });
    match joined {
        Ok(ring) => {
            // SAFETY: takes integers only. Not ours to change when it existed: that is fine.
            let _ = sys::check(unsafe {
                libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, ring, PERMISSIONS)
            });
            Ok(())
        }
        // A kernel without keys, or a filter around us that hides them.
        Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM) => Ok(()),
        Err(error) => Err(error).trying(|| "join a session keyring"),
    }
}
