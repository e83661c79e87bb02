//! Where a monitor lives: its session, namespaces, cgroup and state directory, and how all of
//! it is undone when the container does not come to be.
//!
//! The cgroup is entered before the first thread is made: what the kernel loader allocates is to
//! be accounted there. Namespaces are a thread's: those that read the kernel and open the machine
//! are made before they are left, need none of them, and have ended before there is a guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use config::VmSize;
use container::cgroups;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{UnlinkatFlags, unlinkat};
use thiserror::Error;

use crate::microvm_wall::plan::{self, Network, Plan, plan};
use crate::microvm_wall::protocol::{Launch, SOCKET};
use crate::storage;

/// Why a monitor cannot take its place.
#[derive(Debug, Error)]
pub enum Error {
    /// The bundle cannot run in a microVM.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// A system call failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The network namespace cannot be joined.
    #[error("linux.namespaces: {}: {source}", path.display())]
    JoinNetwork {
        /// The namespace.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The network namespace has links, which the guest would not get.
    #[error(
        "linux.namespaces: the network namespace {} has the link {link}; a microVM has only its own \
         loopback so far (use --network none)", path.display()
    )]
    Links {
        /// The namespace.
        path: PathBuf,
        /// The first link found.
        link: String,
    },
    /// The cgroup cannot be made or entered.
    #[error(transparent)]
    Cgroup(#[from] cgroups::Error),
    /// There is no state directory.
    #[error("the monitor has no state directory")]
    NoState,
    /// The tree cannot be prepared.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::System { operation, source: source.into() }
}

/// What the monitor has made for itself.
pub struct Place {
    /// What is to be done.
    pub plan: Plan,
    /// The cgroup it lives in.
    pub cgroup: cgroups::Record,
    remover: cgroups::Remover,
    /// The way into the v2 cgroup, not taken yet.
    late: Option<cgroups::Entry>,
    state: StateDir,
    tree: Option<storage::Tree>,
}

impl Place {
    /// Moves into the cgroup; the state directory is the caller's until that has succeeded.
    pub fn take(launch: &Launch, state: &mut Option<StateDir>) -> Result<Self, Error> {
        let size = VmSize { vcpus: launch.vcpus, memory: launch.memory };
        let plan = plan(&launch.config, &launch.id, &launch.bundle, size)?;
        // A group and session of its own: a terminal's signals reach it through its creator.
        // SAFETY: setsid takes no memory; it fails only for a leader, which is as good.
        unsafe { libc::setsid() };
        umask(Mode::from_bits_truncate(0o022));
        let (cgroup, remover, late) = enter_cgroup(launch, &plan)?;
        let state = state.take().ok_or(Error::NoState)?;
        Ok(Self { plan, cgroup, remover, late, state, tree: None })
    }

    /// Leaves the caller's namespaces. Threads that exist stay behind in them.
    pub fn part(&self) -> Result<(), Error> {
        let mut flags = CloneFlags::CLONE_NEWNS;
        match &self.plan.network {
            Network::Fresh => flags |= CloneFlags::CLONE_NEWNET,
            Network::Join(path) => join_network(path)?,
        }
        unshare(flags).map_err(system("unshare the monitor's namespaces"))?;
        // What is mounted here stays here; what the host mounts later may come in.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
            .map_err(system("make the monitor's mounts its own"))
    }

    /// Enters the v2 cgroup where that was put off: the kernel waits for all CPUs first, which
    /// takes longer than loading a kernel, and the guest boots meanwhile.
    pub fn enter_late(&mut self) -> Result<(), Error> {
        let Some(mut entry) = self.late.take() else { return Ok(()) };
        entry.without_into()?;
        entry.join().map_err(system("move into the container's v2 cgroup"))
    }

    /// Prepares the tree of files that the guest will see; gives its root.
    pub fn prepare_tree(&mut self) -> Result<OwnedFd, Error> {
        let tree = storage::prepare(&self.plan.storage, &self.state.path)?;
        let root = tree.root.try_clone().map_err(system("duplicate the tree's descriptor"))?;
        self.tree = Some(tree);
        Ok(root)
    }

    /// Opens the control socket, for its owner alone.
    pub fn listen(&self) -> Result<UnixListener, Error> {
        let before = umask(Mode::from_bits_truncate(0o177));
        let path = format!("/proc/self/fd/{}/{SOCKET}", self.state.own.as_raw_fd());
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(system("open the control socket"))?;
        listener.set_nonblocking(true).map_err(system("open the control socket"))?;
        Ok(listener)
    }

    /// Leaves the host's files for the prepared tree alone.
    pub fn close_in(&self) -> Result<(), Error> {
        let Some(tree) = &self.tree else { return Ok(()) };
        tree.seal().map_err(system("make the root read-only"))?;
        nix::unistd::fchdir(&tree.root).map_err(system("enter the prepared tree"))?;
        nix::unistd::pivot_root(".", ".").map_err(system("pivot into the prepared tree"))?;
        // The old root lies over the new one now; what is open below it stays usable.
        nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)
            .map_err(system("leave the host's root"))
    }

    /// Removes what would be left when nobody else does: the cgroup, the control socket. The
    /// mounts and namespaces go with the process.
    pub fn undo(&self) {
        self.remover.remove();
        // Failures have nobody left to be told, and the creator, if it lives, removes it all.
        let _ = unlinkat(&self.state.own, SOCKET, UnlinkatFlags::NoRemoveDir);
    }

    /// The creator lets go: the lock is its own again.
    pub fn kept(&mut self) {
        self.state.lock = None;
    }

    /// The creator is dead: the state directory is removed too.
    pub fn undo_for_creator(&self) {
        self.undo();
        self.state.remove();
    }
}

/// The state directory, held by descriptors: something is mounted on it later, and later still
/// the host's paths are not seen any more.
///
/// Its lock is shared with the creator: should that be killed, the id is not free before this
/// process has undone what it made, or it would undo what the next of that id makes.
pub struct StateDir {
    path: PathBuf,
    own: OwnedFd,
    parent: OwnedFd,
    lock: Option<OwnedFd>,
}

impl StateDir {
    /// `lock` is the creator's descriptor of the directory, which the lock is on.
    pub fn new(path: PathBuf, lock: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let own = openat(&lock, ".", flags, Mode::empty())?;
        let parent = open(path.parent().unwrap_or(&path), flags, Mode::empty())?;
        fcntl(&lock, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(Self { path, own, parent, lock: Some(lock) })
    }

    /// Removes it with what is in it. There is nobody to be told of a failure.
    pub fn remove(&self) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        if let Ok(entries) = nix::dir::Dir::openat(&self.own, ".", flags, Mode::empty()) {
            let entries: Vec<_> = entries.into_iter().flatten().collect();
            for entry in entries {
                let _ = unlinkat(&self.own, entry.file_name(), UnlinkatFlags::NoRemoveDir);
            }
        }
        // A directory that is a mount point, here, cannot be removed, here.
        let _ = nix::mount::umount2(&self.path, nix::mount::MntFlags::MNT_DETACH);
        if let Some(name) = self.path.file_name() {
            let _ = unlinkat(&self.parent, name, UnlinkatFlags::RemoveDir);
        }
    }
}

fn join_network(path: &std::path::Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::JoinNetwork { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(failed)?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| failed(e.into()))?;
    let links = nix::ifaddrs::getifaddrs().map_err(|e| failed(e.into()))?;
    for link in links {
        // Links that are down are made by the kernel itself in every namespace (tunl0, sit0, ...).
        let up = link.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        let loopback = link.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK);
        if up && !loopback {
            return Err(Error::Links { path: path.to_owned(), link: link.interface_name });
        }
    }
    Ok(())
}

/// Makes the cgroup and moves in. Where v1 counts the memory, v2 counts nothing that matters
/// before the workload runs: that part is left for [`Place::enter_late`].
fn enter_cgroup(
    launch: &Launch,
    plan: &Plan,
) -> Result<(cgroups::Record, cgroups::Remover, Option<cgroups::Entry>), Error> {
    let spec = &launch.config.spec;
    let request = cgroups::Request {
        path: spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref()),
        id: &launch.id,
        systemd: launch.systemd_cgroup,
        rootless: false,
        resources: Some(&plan.resources),
        annotations: spec.annotations().as_ref(),
        owner: None,
    };
    let mut cgroup = cgroups::plan(&request)?.create()?;
    let remover = cgroup.remover()?;
    let mut entry = cgroup.entry()?;
    let later = cgroup.record().paths.contains_key("memory");
    if !later {
        entry.without_into()?;
    }
    entry.join().map_err(system("move into the container's cgroup"))?;
    cgroup.joined()?;
    Ok((cgroup.keep(), remover, later.then_some(entry)))
}
