//! The creator's side: starting a monitor and hearing of it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command as Program, Stdio};

use config::WallKind;
use container::hooks::{self, Kind};
use container::pty;
use hull_agent::link::{MAX_REPORT, frame};
use microvm::InitrdPart;

use super::protocol::{CREATOR_FD, Initrd, Launch, News, Order, STATE_FD};
use super::{Error, MONITOR, monotonic_now, plan};
use crate::kernel;
use crate::wall::{CreateRequest, Created, MicrovmRecord, Record};

/// A monitor whose container is not kept yet.
struct Made {
    pid: i32,
    socket: UnixStream,
    cgroup: Option<container::cgroups::Record>,
    start_time: u64,
    memory: u64,
    console: Option<OwnedFd>,
    kept: bool,
}

/// Makes a container that waits to be started.
pub fn create(request: &CreateRequest<'_>) -> crate::Result<Box<dyn Created>> {
    let began = monotonic_now();
    check_flags(request)?;
    // First of all: it starts while the rest is found out here, and from now on what is in the
    // state directory is somebody's to remove.
    let mut made = spawn(request)?;
    let choice = kernel::Choice {
        path: request.decision.kernel.path.clone(),
        initrd: request.decision.kernel.initrd.clone(),
    };
    let prepared = kernel::resolve(&choice, &kernel::default_store(), &kernel::find_agent()?)?;
    let mut cmdline = vec![prepared.cmdline_extra.clone()];
    cmdline.extend(request.decision.kernel.parameters.iter().cloned());
    cmdline.retain(|part| !part.is_empty());
    let launch = Launch {
        id: request.id.to_owned(),
        bundle: request.bundle.to_owned(),
        config: request.config.clone(),
        vcpus: request.decision.vm.vcpus,
        memory: request.decision.vm.memory,
        kernel: prepared.vmlinux,
        initrd: prepared
            .initrd_parts
            .into_iter()
            .map(|part| match part {
                InitrdPart::File(_, path) => Initrd::File(path),
                InitrdPart::Bytes(bytes) => Initrd::Bytes(bytes),
            })
            .collect(),
        cmdline: cmdline.join(" "),
        boot_timeout: request.decision.boot_timeout.as_millis() as u64,
        no_new_keyring: request.no_new_keyring,
        systemd_cgroup: request.systemd_cgroup,
        began,
    };
    frame::write(&made.socket, &launch).map_err(Error::from)?;
    made.wait_for_creation(request)?;
    if let Some(path) = request.console_socket
        && let Some(master) = made.console.take()
    {
        pty::send(path, master)?;
    }
    Ok(Box::new(made))
}

/// Flags that mean something only where the workload is a process of the host.
fn check_flags(request: &CreateRequest<'_>) -> Result<(), Error> {
    let refuse = |flag, why| Err(Error::Plan(plan::Error::Flag { flag, why }));
    if request.preserve_fds > 0 {
        return refuse("--preserve-fds", "an open file of the host cannot be handed to the guest");
    }
    if request.rootless.decide() {
        return refuse("--rootless", "the monitor's mounts and network need root so far");
    }
    Ok(())
}

fn spawn(request: &CreateRequest<'_>) -> crate::Result<Made> {
    let terminal =
        request.config.spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false);
    let (ours, theirs) = UnixStream::pair().map_err(Error::system("make a socket pair"))?;
    let mut program = Program::new("/proc/self/exe");
    program.arg0("hull").args([MONITOR, request.id]).arg(request.state_dir).env_clear();
    let mut console = None;
    if terminal {
        let (master, slave) = open_terminal(request.console_socket.is_none())?;
        let again = || slave.try_clone().map(Stdio::from).map_err(Error::system("duplicate a tty"));
        program.stdin(again()?).stdout(again()?).stderr(again()?);
        console = Some(master);
    } else if let Some([stdin, stdout, stderr]) = request.stdio {
        let dup = |fd: BorrowedFd<'_>| {
            let fd = fd.try_clone_to_owned();
            fd.map(Stdio::from).map_err(Error::system("duplicate a standard stream"))
        };
        program.stdin(dup(stdin)?).stdout(dup(stdout)?).stderr(dup(stderr)?);
    }
    let (theirs_raw, lock) = (theirs.as_raw_fd(), request.state_lock.as_raw_fd());
    // SAFETY: the closure makes only system calls.
    unsafe { program.pre_exec(move || leave_only(theirs_raw, lock)) };
    let child = program.spawn().map_err(Error::system("start the microVM's monitor"))?;
    let pid = child.id() as i32;
    Ok(Made {
        pid,
        socket: ours,
        cgroup: None,
        start_time: super::start_time(pid).unwrap_or_default(),
        memory: request.decision.vm.memory,
        console,
        kept: false,
    })
}

/// Puts the creator's socket and the state directory where the monitor looks for them, and closes
/// everything else.
fn leave_only(socket: RawFd, state: RawFd) -> io::Result<()> {
    let done = |result: libc::c_int| {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    };
    // SAFETY: system calls on descriptors; none of them takes memory.
    unsafe {
        // First out of each other's way. With both there are four open at least (the guard's and
        // the other end of the pair, too), so the library's own pipe has neither number.
        let socket = done(libc::fcntl(socket, libc::F_DUPFD_CLOEXEC, STATE_FD + 1))?;
        let state = done(libc::fcntl(state, libc::F_DUPFD_CLOEXEC, STATE_FD + 1))?;
        done(libc::dup2(socket, CREATOR_FD))?;
        done(libc::dup2(state, STATE_FD))?;
        // Marked, not closed: the standard library's own pipe reports a failing exec.
        let first = STATE_FD as libc::c_uint + 1;
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    Ok(())
}

/// A terminal that passes everything through: the line discipline is the guest's, which is told of
/// the one mode that goes on to mean something (`streams::terminal_of`).
pub(super) fn open_terminal(plain_newlines: bool) -> crate::Result<(OwnedFd, OwnedFd)> {
    let (master, slave) = pty::open()?;
    let mut modes = nix::sys::termios::tcgetattr(&slave).map_err(Error::system("tcgetattr"))?;
    nix::sys::termios::cfmakeraw(&mut modes);
    if plain_newlines {
        modes.output_flags.remove(nix::sys::termios::OutputFlags::ONLCR);
    }
    nix::sys::termios::tcsetattr(&slave, nix::sys::termios::SetArg::TCSANOW, &modes)
        .map_err(Error::system("tcsetattr"))?;
    Ok((master, slave))
}

impl Made {
    fn hear(&self, during: &'static str) -> Result<News, Error> {
        match frame::read(&self.socket, MAX_REPORT) {
            Ok(Some(News::Failed(text))) => Err(Error::Monitor(text)),
            Ok(Some(news)) => Ok(news),
            Ok(None) => Err(Error::MonitorGone { during }),
            Err(error) => Err(error.into()),
        }
    }

    fn wait_for_creation(&mut self, request: &CreateRequest<'_>) -> crate::Result<()> {
        loop {
            match self.hear("create")? {
                News::Placed { cgroup } => {
                    self.cgroup = Some(cgroup);
                    self.run_hooks(request)?;
                }
                News::Created { phases } => {
                    for (name, at) in phases {
                        tracing::debug!("{:9.3} ms  {name}", at as f64 / 1000.0);
                    }
                    return Ok(());
                }
                News::Started | News::Failed(_) => {
                    return Err(Error::Answer { to: "create" }.into());
                }
            }
        }
    }

    /// The guest boots meanwhile.
    fn run_hooks(&self, request: &CreateRequest<'_>) -> crate::Result<()> {
        let Some(given) = request.config.spec.hooks() else { return Ok(()) };
        let state = oci::State {
            oci_version: request.config.spec.version().clone(),
            id: request.id.to_owned(),
            status: oci::Status::Creating,
            pid: Some(self.pid),
            bundle: request.bundle.to_owned(),
            annotations: request
                .config
                .spec
                .annotations()
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
        };
        #[allow(deprecated)] // prestart is deprecated, and engines use it.
        let prestart = given.prestart();
        for (list, kind) in
            [(prestart, Kind::Prestart), (given.create_runtime(), Kind::CreateRuntime)]
        {
            hooks::run(list.as_deref().unwrap_or_default(), kind, &state)?;
        }
        Ok(())
    }
}

impl Created for Made {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn record(&self) -> Record {
        Record::Microvm(MicrovmRecord {
            pid: self.pid,
            start_time: self.start_time,
            cgroup: self.cgroup.clone().unwrap_or_default(),
            memory: self.memory,
        })
    }

    fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    fn start(&mut self) -> crate::Result<()> {
        frame::write(&self.socket, &Order::Start).map_err(Error::from)?;
        match self.hear("start")? {
            News::Started => Ok(()),
            _ => Err(Error::Answer { to: "start" }.into()),
        }
    }

    fn keep(mut self: Box<Self>) {
        // A monitor that has ended meanwhile has nothing to be told.
        let _ = frame::write(&self.socket, &Order::Keep);
        self.kept = true;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // SAFETY: the pid is our own child's, not waited for yet.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.remove()
        {
            tracing::warn!("{} {}: {error}", WallKind::Microvm, self.pid);
        }
    }
}
