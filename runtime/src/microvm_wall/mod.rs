//! The microVM wall: a bundle behind a kernel of its own.
//!
//! `create` starts the *monitor*, this program once more, which is the VMM and whose pid is the
//! container's: it lives in the container's cgroup and network namespace and exits with the
//! workload's status. It is reached over a control socket in the state directory. The guest's
//! PID 1 is the agent, which runs the bundle with the `container` crate.
//!
//! Must not know the command line's flags.

mod create;
mod error;
mod exec;
mod monitor;
pub mod plan;
mod protocol;
mod table;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use config::{VmSize, WallKind};
use container::cgroups::{OomEvents, Stats};
use container::pidfd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

pub use error::Error;
use protocol::{Command, Outcome, ask};

use crate::Result;
use crate::wall::{
    Container, CreateRequest, Created, Exec, ExecRequest, MicrovmRecord, Record, Update, Wall,
};

/// The word by which this program is told to be a monitor: its first argument.
pub const MONITOR: &str = "monitor";

/// Runs bundles in microVMs.
#[derive(Debug, Clone, Copy, Default)]
pub struct MicrovmWall;

/// The monitor: what `main` calls when the first argument is [`MONITOR`], before anything else.
pub fn monitor() -> ! {
    monitor::run()
}

/// The microVM's part of the record; a record of the other wall was routed wrongly.
fn own(container: &Container) -> Result<&MicrovmRecord> {
    match &container.record {
        Record::Microvm(record) => Ok(record),
        Record::Container(_) => {
            Err(crate::Error::WrongWall { id: container.id.clone(), wall: WallKind::Container })
        }
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, which is one for all processes.
fn monotonic_now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// State and start time of a process, fields 3 and 22 of `/proc/PID/stat` (proc(5)).
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn start_time(pid: i32) -> Option<u64> {
    stat(pid).map(|(_, start)| start)
}

/// Is the monitor there, and no other process of its pid?
fn alive(record: &MicrovmRecord) -> bool {
    stat(record.pid)
        .is_some_and(|(state, start)| start == record.start_time && !matches!(state, 'Z' | 'X'))
}

fn status(container: &Container) -> Result<oci::Status> {
    let record = own(container)?;
    if !alive(record) {
        return Ok(oci::Status::Stopped);
    }
    match ask(&container.state_dir, &Command::State, "state") {
        Ok(Outcome::Status(status)) => Ok(status),
        Ok(_) => Err(Error::Answer { to: "state" }.into()),
        // It may have ended since it was looked at.
        Err(_) if is_ending(record) => Ok(oci::Status::Stopped),
        Err(error) => Err(error.into()),
    }
}

/// Whether a monitor that does not answer is at its end: its socket is closed a little before the
/// kernel lists it as ended. One that hangs is not waited for longer than a moment.
fn is_ending(record: &MicrovmRecord) -> bool {
    let end = Instant::now() + Duration::from_secs(2);
    while alive(record) {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Asks a living container's monitor; for others the error is that of a container that is not
/// in the right state.
fn ask_living(
    container: &Container,
    command: &Command,
    operation: &'static str,
) -> Result<Outcome> {
    let stopped = Error::Status { operation, status: oci::Status::Stopped };
    if !alive(own(container)?) {
        return Err(stopped.into());
    }
    match ask(&container.state_dir, command, operation) {
        Err(_) if is_ending(own(container)?) => Err(stopped.into()),
        result => Ok(result?),
    }
}

fn done(outcome: Outcome, to: &'static str) -> Result<()> {
    match outcome {
        Outcome::Done => Ok(()),
        _ => Err(Error::Answer { to }.into()),
    }
}

impl Wall for MicrovmWall {
    fn create(&self, request: &CreateRequest<'_>) -> Result<Box<dyn Created>> {
        create::create(request)
    }

    fn start(&self, container: &Container) -> Result<()> {
        done(ask_living(container, &Command::Start, "start")?, "start")
    }

    fn status(&self, container: &Container) -> Result<oci::Status> {
        status(container)
    }

    fn exec(&self, container: &Container, request: &ExecRequest<'_>) -> Result<Exec> {
        match status(container)? {
            oci::Status::Stopped => {
                let status = oci::Status::Stopped;
                Err(Error::Status { operation: "exec in", status }.into())
            }
            oci::Status::Paused if !request.ignore_paused => {
                let status = oci::Status::Paused;
                Err(Error::Status { operation: "exec in", status }.into())
            }
            _ => exec::exec(container, request),
        }
    }

    fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<()> {
        let outcome = ask_living(container, &Command::Signal { signal, all }, "signal");
        // A monitor that ends on SIGKILL may do so before it answers.
        match outcome {
            Err(_) if signal == libc::SIGKILL && is_ending(own(container)?) => Ok(()),
            outcome => done(outcome?, "signal"),
        }
    }

    fn pause(&self, container: &Container) -> Result<()> {
        done(ask_living(container, &Command::Pause, "pause")?, "pause")
    }

    fn resume(&self, container: &Container) -> Result<()> {
        done(ask_living(container, &Command::Resume, "resume")?, "resume")
    }

    fn update(&self, container: &mut Container, update: &Update) -> Result<()> {
        if update.l3_cache_schema.is_some() || update.mem_bw_schema.is_some() {
            let why = "the guest's processes cannot be put into a resctrl group";
            let flag = "--l3-cache-schema, --mem-bw-schema";
            return Err(Error::Plan(plan::Error::Flag { flag, why }).into());
        }
        let record = own(container)?;
        let memory = record.memory;
        let limit = update.resources.memory().as_ref().and_then(|memory| memory.limit());
        if let Some(limit) = limit
            && u64::try_from(limit).is_ok_and(|limit| limit > memory)
        {
            return Err(Error::BeyondGuest { limit, memory }.into());
        }
        let size = VmSize { vcpus: 1, memory };
        let (host, guest) = plan::part(&update.resources, size).map_err(Error::from)?;
        let guest = Command::Update(Box::new(guest));
        done(ask_living(container, &guest, "update")?, "update")?;
        record.cgroup.apply(&host).map_err(container::Error::from)?;
        Ok(())
    }

    fn stats(&self, container: &Container) -> Result<Stats> {
        match ask_living(container, &Command::Stats, "read statistics of")? {
            Outcome::Stats(stats) => {
                serde_json::from_value(stats).map_err(|_| Error::Answer { to: "stats" }.into())
            }
            _ => Err(Error::Answer { to: "stats" }.into()),
        }
    }

    fn processes(&self, container: &Container) -> Result<Vec<i32>> {
        match ask_living(container, &Command::Processes, "list processes of")? {
            Outcome::Processes(rows) => Ok(rows.iter().map(|row| row.pid).collect()),
            _ => Err(Error::Answer { to: "ps" }.into()),
        }
    }

    fn process_table(&self, container: &Container, arguments: &[OsString]) -> Result<String> {
        if !table::is_full(arguments) {
            let why = "the table of a guest's processes has only the form of ps -ef";
            return Err(Error::Plan(plan::Error::Flag { flag: "ps options", why }).into());
        }
        match ask_living(container, &Command::Processes, "list processes of")? {
            Outcome::Processes(rows) => Ok(table::format(&rows, table::now())),
            _ => Err(Error::Answer { to: "ps" }.into()),
        }
    }

    fn oom_events(&self, container: &Container) -> Result<Option<OomEvents>> {
        own(container)?;
        Ok(None)
    }

    fn checkpoint(
        &self,
        _: &Container,
        _: &oci::Config,
        _: &container::criu::Options,
    ) -> Result<()> {
        Err(crate::Error::NotOnThisWall { operation: "checkpoint", wall: "microvm" })
    }

    fn restore(
        &self,
        _: &CreateRequest<'_>,
        _: &container::criu::Options,
    ) -> Result<Box<dyn Created>> {
        Err(crate::Error::NotOnThisWall { operation: "restore", wall: "microvm" })
    }

    fn delete(&self, container: &Container, force: bool) -> Result<()> {
        let record = own(container)?;
        if alive(record) {
            let status = status(container)?;
            if !force && status != oci::Status::Stopped {
                return Err(Error::Status { operation: "delete", status }.into());
            }
            end(record)?;
        }
        record.cgroup.remove().map_err(container::Error::from)?;
        Ok(())
    }
}

/// Kills the monitor, and the guest with it, and waits until it is gone.
fn end(record: &MicrovmRecord) -> Result<()> {
    let Some(process) = pidfd::find(record.pid).map_err(Error::system("pidfd_open"))? else {
        return Ok(());
    };
    // Between the look at its start time and the descriptor another may have taken the pid.
    if !alive(record) {
        return Ok(());
    }
    match pidfd::signal(process.as_fd(), libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(Error::system("pidfd_send_signal")(error).into()),
    }
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ended, 10_000u16) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(Error::system("poll")(error).into()),
    }
}
