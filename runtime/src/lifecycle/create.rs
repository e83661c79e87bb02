//! `create` and the first half of `run`: from a bundle to a container that waits.

use super::{Blocked, Context, Id, notify, store, wall};
use crate::wall::{Container, CreateRequest, Created, RECORD_VERSION, Wall};
use crate::{Error, Result};
use config::{HullToml, Inputs, WallKind};
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What `create`, `run` and `restore` are told.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The bundle; the current directory otherwise.
    pub bundle: Option<PathBuf>,
    /// `--console-socket`.
    pub console_socket: Option<PathBuf>,
    /// `--pidfd-socket`.
    pub pidfd_socket: Option<PathBuf>,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// Nobody waits here for the container.
    pub detach: bool,
    /// The same process starts it.
    pub foreground: bool,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
}

/// A container that was made and not handed over yet: dropped, it is unmade.
pub struct Live {
    /// What `state.json` says of it.
    pub container: Container,
    created: Option<Box<dyn Created>>,
    lock: store::Lock,
    store: store::Store,
    pid_file: Option<PathBuf>,
    /// What tells a service manager that the container is ready.
    notify: Option<notify::Socket>,
    blocked: Option<Blocked>,
    /// Dropped last: until then a kill of this process leaves nothing.
    guard: Option<container::Guard>,
}

/// Makes a container. Signals are blocked from here until [`Live`] lets go of them, so that
/// a TERM in the middle leaves nothing behind.
pub fn create(context: &Context, id: &Id, options: &CreateOptions) -> Result<Live> {
    let told = notify::manager().map_or(Told::Nobody, Told::Manager);
    make(context, id, options, told, |wall, request| wall.create(request))
}

/// Makes a container that runs on from where it was saved.
pub fn restore(
    context: &Context,
    id: &Id,
    options: &CreateOptions,
    images: &container::criu::Options,
) -> Result<Live> {
    // It was ready before it was saved; what else it says, nobody waits for.
    let told = match notify::is_marked(&images.image_path) {
        true => Told::AtRestore,
        false => Told::Nobody,
    };
    make(context, id, options, told, |wall, request| wall.restore(request, images))
}

/// Who is told when the container is ready.
enum Told {
    Nobody,
    /// A service manager, at this socket.
    Manager(OsString),
    /// Nobody, but the container was made for a manager: the socket's place must be there.
    AtRestore,
}

fn make(
    context: &Context,
    id: &Id,
    options: &CreateOptions,
    told: Told,
    by: impl FnOnce(&dyn Wall, &CreateRequest<'_>) -> Result<Box<dyn Created>>,
) -> Result<Live> {
    let pid_file = options.pid_file.as_deref().map(absolute).transpose()?;
    let console_socket = options.console_socket.as_deref().map(absolute).transpose()?;
    let pidfd_socket = options.pidfd_socket.as_deref().map(absolute).transpose()?;
    let pidfd_socket =
        pidfd_socket.map(|path| container::pty::PidfdSocket::connect(&path)).transpose()?;
    let file = hull_toml(context)?;
    let bundle = enter_bundle(options.bundle.as_deref())?;
    let (mut config, text) = oci::load_with_text(Path::new("config.json"))?;
    check_terminal(&config, options)?;
    let decision = config::decide(&Inputs {
        flags: &context.flags,
        argv0: Some(&context.argv0),
        config: &config,
        file: file.as_ref(),
    })?;
    let wall = wall(decision.wall);

    let blocked = Blocked::new();
    let guard = container::Guard::new().map_err(crate::Error::from)?;
    let claim = context.store.claim(id, Some(&guard))?;
    claim.save_config(&text)?;
    drop(text);
    let mut notify = None;
    match told {
        Told::Nobody => {}
        Told::Manager(_) if decision.wall == WallKind::Microvm => {
            tracing::warn!("NOTIFY_SOCKET is not passed on: a guest cannot connect to the host's");
        }
        Told::Manager(manager) => {
            notify::prepare(&mut config.spec, claim.path(), Some(&guard))?;
            if options.foreground {
                notify = notify::Socket::bind(claim.path(), manager, Some(&guard))?;
            }
        }
        Told::AtRestore => notify::prepare(&mut config.spec, claim.path(), Some(&guard))?,
    }
    let request = CreateRequest {
        id: id.as_str(),
        config: &config,
        decision: &decision,
        bundle: &bundle,
        state_dir: claim.path(),
        state_lock: claim.lock_fd()?,
        root: context.store.root(),
        console_socket: console_socket.as_deref(),
        stdio: None,
        preserve_fds: options.preserve_fds,
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        systemd_cgroup: context.systemd_cgroup,
        rootless: context.rootless,
        foreground: options.foreground,
        debug: context.debug,
        guard: Some(&guard),
    };
    let created = by(wall, &request)?;
    let container = describe(id, bundle, &config, created.as_ref(), claim.path().to_owned());
    tracing::debug!(
        "{id}: made as a {:?}, process {}",
        container.record.kind(),
        container.record.pid()
    );
    // Should what follows fail, the container goes first, then its directory.
    let lock = claim.commit(&container)?;
    let live = Live {
        container,
        created: Some(created),
        lock,
        store: context.store.clone(),
        pid_file,
        notify,
        blocked: Some(blocked),
        guard: Some(guard),
    };
    if let Some(path) = &live.pid_file {
        store::write_pid_file(path, live.container.record.pid())?;
    }
    if let Some(socket) = pidfd_socket {
        socket.send(live.container.record.pid())?;
    }
    live.check_interrupted()?;
    Ok(live)
}

impl Live {
    fn made(&mut self) -> Result<&mut Box<dyn Created>> {
        self.created.as_mut().ok_or(Error::Claimless)
    }

    fn check_interrupted(&self) -> Result<()> {
        match self.blocked.as_ref().and_then(Blocked::end_asked) {
            Some(signal) => Err(Error::Interrupted { signal }),
            None => Ok(()),
        }
    }

    /// The terminal's master, when no console socket took it.
    pub fn take_console(&mut self) -> Option<std::os::fd::OwnedFd> {
        self.created.as_mut()?.take_console()
    }

    /// Runs the container's program.
    pub fn start(&mut self) -> Result<()> {
        self.made()?.start()?;
        self.container.run_poststart()
    }

    /// Lets the container live on without us, once it is ready if a service manager asks for that.
    pub fn detach(mut self) {
        if let Some(created) = self.created.take() {
            created.keep();
        }
        self.guard = None;
        let (notify, pid) = (self.notify.take(), self.container.record.pid());
        // Its lock and our signals are others' again.
        drop(self);
        let Some(notify) = notify else { return };
        let told = notify::watch(pid).and_then(|process| notify.forward(process, pid as u32));
        if let Err(error) = told {
            tracing::warn!("{error}");
        }
    }

    /// Waits for the container's end, forwarding signals and relaying the terminal; with
    /// `keep` it is left for others to delete. The exit status is the workload's.
    pub fn wait(mut self, console: Option<std::os::fd::OwnedFd>, keep: bool) -> Result<i32> {
        if let Some(created) = self.created.take() {
            created.keep();
        }
        self.guard = None;
        self.lock.release();
        let pid = self.container.record.pid();
        // It is this process that the manager has to watch: it passes signals on.
        let notifying = self.notify.take().map(|notify| {
            let process = notify::watch(pid);
            std::thread::spawn(move || notify.forward(process?, std::process::id()))
        });
        let outcome = super::wait(pid, console);
        if let Some(Ok(Err(error))) = notifying.map(std::thread::JoinHandle::join) {
            tracing::warn!("{error}");
        }
        if !keep && self.lock.retake()? {
            self.container.wall().delete(&self.container, true)?;
            super::forget(&self.store, &self.container)?;
        }
        outcome
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Kept ones are gone from here; this one failed after it was made.
        if let Some(created) = self.created.take() {
            drop(created);
            let _ = self.store.remove(&self.container.state_dir);
            if let Some(path) = &self.pid_file {
                let _ = fs::remove_file(path);
            }
            self.container.run_poststop();
        }
    }
}

fn describe(
    id: &Id,
    bundle: PathBuf,
    config: &oci::Config,
    created: &dyn Created,
    state_dir: PathBuf,
) -> Container {
    let spec = &config.spec;
    let hooks = spec.hooks().as_ref();
    let rootfs = spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default();
    Container {
        version: RECORD_VERSION,
        oci_version: spec.version().clone(),
        id: id.to_string(),
        rootfs: rootfs.components().collect(),
        bundle,
        created: super::now(),
        // SAFETY: geteuid cannot fail and touches no memory.
        owner: unsafe { libc::geteuid() },
        annotations: spec
            .annotations()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        poststart: hooks.and_then(|hooks| hooks.poststart().clone()).unwrap_or_default(),
        poststop: hooks.and_then(|hooks| hooks.poststop().clone()).unwrap_or_default(),
        record: created.record(),
        state_dir,
    }
}

fn check_terminal(config: &oci::Config, options: &CreateOptions) -> Result<()> {
    let terminal = config.spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false);
    check_console(terminal, options.detach, options.console_socket.is_some())
}

/// Whether a terminal, the wish not to wait and a console socket go together (runc's rules).
pub(crate) fn check_console(terminal: bool, detach: bool, socket: bool) -> Result<()> {
    if detach && terminal && !socket {
        return Err(Error::ConsoleSocketNeeded);
    }
    if (!detach || !terminal) && socket {
        return Err(Error::ConsoleSocketUseless);
    }
    Ok(())
}

fn hull_toml(context: &Context) -> Result<Option<HullToml>> {
    let path = match &context.config_file {
        Some(path) => path.as_path(),
        None => Path::new(config::DEFAULT_FILE),
    };
    match fs::read_to_string(path) {
        Ok(text) => HullToml::parse(&text)
            .map(Some)
            .map_err(|source| Error::HullToml { path: path.to_owned(), source }),
        Err(error) if error.kind() == ErrorKind::NotFound && context.config_file.is_none() => {
            Ok(None)
        }
        Err(source) => Err(Error::file("reading", path, source)),
    }
}

/// Makes a path of the command line independent of the current directory.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::file("resolving", path, source))
}

/// Goes to the bundle, as runc does: relative paths of `config.json` start there. Returns
/// its path without symbolic links.
fn enter_bundle(bundle: Option<&Path>) -> Result<PathBuf> {
    if let Some(bundle) = bundle {
        std::env::set_current_dir(bundle)
            .map_err(|source| Error::file("entering the bundle", bundle, source))?;
    }
    std::env::current_dir()
        .map_err(|source| Error::System { operation: "finding the bundle's path", source })
}
