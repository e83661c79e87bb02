//! From a launch to a machine that boots.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hull_agent::link::{Create, FS_TAG, PORT, Stdio};
use microvm::{Config, Devices, Handle, InitrdPart, Listener, Loading, Vm, devices::virtio::fs};

use super::boot::{Failure, Phase};
use super::place::Place;
use super::signals::Signals;
use super::streams::{Streams, kind, terminal_of};
use super::tell;
use crate::microvm_wall::protocol::{Initrd, Launch, News};

/// A machine that boots, and what its monitor holds on to.
pub struct Machine {
    /// The VM.
    pub handle: Handle,
    /// Its threads' confinement; the main thread's too.
    pub jail: microvm::jail::Jail,
    /// Where the guest's connections come in.
    pub guest: Listener,
    /// Where commands come in.
    pub commands: UnixListener,
    /// Signals sent to the monitor.
    pub signals: Signals,
    /// What the agent is told first; sent once.
    pub create: Option<Create>,
    /// The workload's streams.
    pub streams: Streams,
    /// The terminal, to ask its size.
    pub terminal: Option<OwnedFd>,
    /// When the boot has taken too long.
    pub deadline: Instant,
    /// How long that is.
    pub timeout: Duration,
    /// What happened when.
    pub phases: Phases,
}

/// What happened when, counted from the creator's begin.
pub struct Phases {
    began: Instant,
    own: Vec<(&'static str, Instant)>,
}

impl Phases {
    /// `began` is the creator's begin in nanoseconds of CLOCK_MONOTONIC.
    pub fn new(began: u64) -> Self {
        let ago = super::super::monotonic_now().saturating_sub(began);
        let now = Instant::now();
        let began = now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now);
        Self { began, own: vec![("monitor has its orders", now)] }
    }

    /// Something has happened.
    pub fn mark(&mut self, name: &'static str) {
        self.own.push((name, Instant::now()));
    }

    /// All of them, those of the machine included, in microseconds and in order.
    pub fn list(&self, machine: Vec<(&'static str, Instant)>) -> Vec<(String, u64)> {
        let all = self.own.iter().copied().chain(machine);
        let mut all: Vec<_> = all
            .map(|(name, at)| {
                let since = at.saturating_duration_since(self.began);
                (name.to_owned(), since.as_micros() as u64)
            })
            .collect();
        all.sort_by_key(|(_, at)| *at);
        all
    }
}

/// Makes the machine and starts it. The kernel's loader runs beside everything else here.
pub fn bring_up(
    launch: Launch,
    place: &mut Place,
    creator: &UnixStream,
    signals: Signals,
    mut phases: Phases,
) -> Result<Machine, Failure> {
    phases.mark("placed");
    // As the caller has them: the machine raises that of open files for itself.
    let rlimits = rlimits();
    let config = Config {
        vcpus: launch.vcpus,
        memory: launch.memory,
        cmdline: launch.cmdline.clone(),
        ..Config::default()
    };
    let loading = Loading::start(
        open(&launch.kernel)?,
        launch.initrd.iter().map(part).collect::<Result<_, _>>()?,
        &config,
    );
    place.part().map_err(Failure::host)?;
    phases.mark("in its namespaces");
    let placed = News::Placed { cgroup: place.cgroup.clone() };
    tell(creator, &placed).map_err(Failure::host)?;
    let root = place.prepare_tree().map_err(Failure::host)?;
    phases.mark("tree prepared");
    let commands = place.listen().map_err(Failure::host)?;
    let devices =
        Devices { fs: vec![fs::Config { tag: FS_TAG.to_owned(), root }], vsock: true, rng: true };
    let loaded = |error| Failure::boot(Phase::KernelLoading, error);
    let vm = Vm::build(&config, loading, devices).map_err(|error| match error {
        microvm::Error::Load(microvm::boot::loading::LoadError::Kernel(why)) => {
            Failure::boot(Phase::KernelLoading, format!("{}: {why}", launch.kernel.display()))
        }
        error => loaded(error),
    })?;
    phases.mark("machine built");
    let jail = microvm::jail::Jail::confine(&[]).map_err(|error| loaded(error.into()))?;
    let handle = vm.start(&jail).map_err(loaded)?;
    let Some(connector) = handle.connector() else {
        return Err(Failure::host("the machine has no vsock device"));
    };
    let guest = connector.listen(PORT).map_err(Failure::host)?;
    phases.mark("machine started");
    place.enter_late().map_err(Failure::host)?;
    phases.mark("in the v2 cgroup");
    let (stdio, streams, terminal) = own_streams(place.plan.terminal)?;
    let timeout = Duration::from_millis(launch.boot_timeout);
    let create = Create {
        id: launch.id,
        bundle: launch.bundle,
        config: place.plan.guest.clone(),
        stdio,
        no_new_keyring: launch.no_new_keyring,
        rlimits,
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64),
    };
    Ok(Machine {
        handle,
        jail,
        guest,
        commands,
        signals,
        create: Some(create),
        streams,
        terminal,
        deadline: Instant::now() + timeout,
        timeout,
        phases,
    })
}

fn open(path: &PathBuf) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        Failure::boot(Phase::KernelLoading, format!("open {}: {error}", path.display()))
    })
}

fn part(part: &Initrd) -> Result<InitrdPart, Failure> {
    Ok(match part {
        Initrd::File(path) => InitrdPart::File(open(path)?, path.clone()),
        Initrd::Bytes(bytes) => InitrdPart::Bytes(bytes.clone()),
    })
}

/// Takes the monitor's own stdin, stdout and stderr, which are the workload's; what is left in
/// their places is `/dev/null`.
fn own_streams(terminal: bool) -> Result<(Stdio, Streams, Option<OwnedFd>), Failure> {
    let failed = |error: std::io::Error| Failure::host(format!("standard streams: {error}"));
    // Numbers below 3 are not given out again while /dev/null holds them.
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let mut taken = Vec::new();
    for number in 0..3 {
        // SAFETY: the creator has left its streams under these numbers, or nothing; a number
        // that is not open is an error of the call.
        let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
        taken.push(if copy < 0 {
            OwnedFd::from(null.try_clone().map_err(failed)?)
        } else {
            // SAFETY: the kernel just gave us this descriptor.
            unsafe { OwnedFd::from_raw_fd(copy) }
        });
        // SAFETY: dup2 takes no memory; nothing in this process owns the number.
        unsafe { libc::dup2(null.as_raw_fd(), number) };
    }
    if !terminal {
        let kinds = [kind(&taken[0]), kind(&taken[1]), kind(&taken[2])];
        let stdio = Stdio::Streams(kinds);
        return Ok((stdio, Streams::new(stdio, taken), None));
    }
    taken.truncate(1);
    // Its size is told by SIGWINCH only to the session whose terminal it is.
    // SAFETY: TIOCSCTTY takes an integer.
    unsafe { libc::ioctl(taken[0].as_raw_fd(), libc::TIOCSCTTY, 0) };
    let ours = taken[0].try_clone().map_err(failed)?;
    let stdio = terminal_of(&ours);
    Ok((stdio, Streams::new(stdio, taken), Some(ours)))
}

/// The creator's resource limits, which a workload on the host would inherit.
fn rlimits() -> Vec<(u64, u64)> {
    const LIMITS: libc::__rlimit_resource_t = 16;
    let mut all = Vec::new();
    for number in 0..LIMITS {
        let mut limit =
            libc::rlimit64 { rlim_cur: libc::RLIM64_INFINITY, rlim_max: libc::RLIM64_INFINITY };
        // SAFETY: `limit` is writable; no new limit is set.
        unsafe { libc::prlimit64(0, number, std::ptr::null(), &mut limit) };
        all.push((limit.rlim_cur, limit.rlim_max));
    }
    all
}

/// For poll(2).
pub fn wait_for(fd: BorrowedFd<'_>, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
}
