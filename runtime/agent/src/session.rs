//! The agent's one loop: requests of the host, streams of the processes, their ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use container::pty;
use hull_agent::link::{
    Answer, Ask, Connection, Create, Decoder, Exec, ExitStatus, FrameError, INIT, MAX_FRAME,
    ProcessId, Report, Request, Stdio, WindowSize, frame,
};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::host::{self, Error};
use crate::process::{Process, Streams};
use crate::{setup, table};

/// What a request came to: an answer, or the text of the error that the user gets to see.
type Outcome = Result<Answer, String>;

/// The container, once it was made.
struct Container {
    created: container::Created,
    record: container::Record,
    config: oci::Config,
}

/// The state of the agent.
pub struct Session {
    link: OwnedFd,
    decoder: Decoder,
    children: SignalFd,
    container: Option<Container>,
    processes: BTreeMap<ProcessId, Process>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Session {
    /// Calls the host.
    pub fn open() -> Result<Self, Error> {
        let failed = |source: nix::Error| Error::Loop {
            operation: "watch for SIGCHLD",
            source: source.into(),
        };
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        // A reader that is gone is an error of the write, and no reason for PID 1 to end.
        mask.add(Signal::SIGPIPE);
        mask.thread_block().map_err(failed)?;
        let mut watched = SigSet::empty();
        watched.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&watched, flags).map_err(failed)?;
        Ok(Self {
            link: host::connect(Connection::Control)?,
            decoder: Decoder::new(MAX_FRAME),
            children,
            container: None,
            processes: BTreeMap::new(),
        })
    }

    /// Serves the host until it lets go.
    pub fn run(mut self) -> Result<Infallible, Error> {
        let mut set: Vec<libc::pollfd> = Vec::new();
        loop {
            set.clear();
            for fd in [self.link.as_raw_fd(), self.children.as_raw_fd()] {
                set.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            }
            for process in self.processes.values_mut() {
                process.interest(&mut set);
            }
            let patience = self.processes.values().filter_map(Process::patience).min();
            let timeout = patience.map_or(-1, |time| time.as_millis().min(1000) as i32 + 1);
            let timeout = if patience.is_some_and(|time| time.is_zero()) { 0 } else { timeout };
            // SAFETY: `set` is an array of the length given.
            let ready = unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, timeout) };
            if ready < 0 {
                let source = io::Error::last_os_error();
                if source.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(Error::Loop { operation: "poll", source });
            }
            for process in self.processes.values_mut() {
                process.step(&set);
            }
            if set[1].revents != 0 {
                while let Ok(Some(_)) = self.children.read_signal() {}
                self.reap();
            }
            self.report_finished()?;
            if set[0].revents != 0 {
                self.receive()?;
            }
        }
    }

    fn receive(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 16 << 10];
        match nix::unistd::read(&self.link, &mut buffer) {
            Ok(0) => return Err(Error::Closed),
            Ok(n) => self.decoder.push(&buffer[..n]),
            Err(nix::Error::EINTR) => return Ok(()),
            Err(source) => return Err(FrameError::Io(source.into()).into()),
        }
        while let Some(Request { seq, ask }) = self.decoder.take()? {
            let result = self.carry_out(ask);
            self.tell(&Report::Reply { seq, result })?;
        }
        Ok(())
    }

    fn tell(&mut self, report: &Report) -> Result<(), Error> {
        let mut link = std::fs::File::from(self.link.try_clone().map_err(FrameError::Io)?);
        Ok(frame::write(&mut link, report)?)
    }

    fn carry_out(&mut self, ask: Ask) -> Outcome {
        match ask {
            Ask::Create(create) => self.create(*create),
            Ask::Start => {
                self.container()?.created.start().map_err(text)?;
                Ok(Answer::Done)
            }
            Ask::Exec(exec) => self.exec(*exec),
            Ask::Signal { process, signal, all } => self.signal(process, signal, all),
            Ask::Resize { process, size } => {
                self.resize(process, size);
                Ok(Answer::Done)
            }
            Ask::Update(resources) => {
                container::update(&self.container()?.record, &resources).map_err(text)?;
                Ok(Answer::Done)
            }
            Ask::Stats => {
                let stats = container::stats(&self.container()?.record).map_err(text)?;
                Ok(Answer::Stats(serde_json::to_value(stats).map_err(text)?))
            }
            Ask::Processes => {
                let pids = container::processes(&self.container()?.record).map_err(text)?;
                Ok(Answer::Processes(table::rows(&pids)))
            }
        }
    }

    fn container(&mut self) -> Result<&mut Container, String> {
        self.container.as_mut().ok_or_else(|| "the guest has no container yet".to_owned())
    }

    fn create(&mut self, create: Create) -> Outcome {
        if self.container.is_some() {
            return Err("the guest has a container already".to_owned());
        }
        inherit(&create);
        let streams = Streams::open(INIT, create.stdio).map_err(text)?;
        let mut created = container::create(&container::CreateRequest {
            guard: None,
            id: &create.id,
            config: &create.config,
            bundle: &create.bundle,
            state_dir: Path::new(setup::RUN),
            cache_dir: None,
            console_socket: None,
            plain_newlines: create.stdio.plain_newlines(),
            stdio: streams.ends(),
            preserve_fds: 0,
            no_pivot: false,
            no_new_keyring: create.no_new_keyring,
            systemd_cgroup: false,
            rootless: container::Rootless::No,
            foreground: true,
        })
        .map_err(text)?;
        let pid = created.pid();
        let console = created.take_console();
        self.attach(INIT, pid, streams, console, create.stdio).map_err(text)?;
        let record = created.record().clone();
        self.container = Some(Container { created, record, config: create.config });
        Ok(Answer::Process(pid))
    }

    fn exec(&mut self, exec: Exec) -> Outcome {
        if self.processes.contains_key(&exec.process) {
            return Err(format!("process {} exists", exec.process));
        }
        let streams = Streams::open(exec.process, exec.stdio).map_err(text)?;
        let container = self.container()?;
        let made = container::exec(
            &container.record,
            &container::ExecRequest {
                process: &exec.spec,
                config: &container.config,
                cache_dir: None,
                console_socket: None,
                plain_newlines: exec.stdio.plain_newlines(),
                stdio: streams.ends(),
                preserve_fds: 0,
                cgroup: &exec.cgroup,
                ignore_paused: exec.ignore_paused,
            },
        )
        .map_err(text)?;
        self.attach(exec.process, made.pid, streams, made.console, exec.stdio).map_err(text)?;
        Ok(Answer::Process(made.pid))
    }

    fn attach(
        &mut self,
        id: ProcessId,
        pid: i32,
        streams: Streams,
        console: Option<OwnedFd>,
        stdio: Stdio,
    ) -> io::Result<()> {
        let terminal = console.as_ref().map(OwnedFd::try_clone).transpose()?;
        let pumps = streams.attach(console)?;
        self.processes.insert(id, Process::new(id, pid, terminal, pumps));
        if let Stdio::Terminal { size: Some(size), .. } = stdio {
            self.resize(id, size);
        }
        Ok(())
    }

    fn resize(&self, process: ProcessId, size: WindowSize) {
        // A terminal that is gone has no size: nobody needs to be told.
        if let Some(terminal) = self.processes.get(&process).and_then(|p| p.terminal.as_ref()) {
            let size = pty::Size { rows: size.rows, columns: size.cols };
            let _ = pty::resize(terminal, size);
        }
    }

    fn signal(&mut self, id: ProcessId, signal: i32, all: bool) -> Outcome {
        if id == INIT {
            container::signal(&self.container()?.record, signal, all).map_err(text)?;
            return Ok(Answer::Done);
        }
        // A process that has ended but was not reported yet cannot be signalled any more, and its
        // pid, once reaped, may be another's.
        let Some(process) = self.processes.get(&id).filter(|process| !process.has_ended()) else {
            return Err("process already finished".to_owned());
        };
        // SAFETY: kill takes no memory.
        if unsafe { libc::kill(process.pid, signal) } != 0 {
            return Err(text(io::Error::last_os_error()));
        }
        Ok(Answer::Done)
    }

    /// Takes the statuses of children that ended: processes of the container, and orphans of
    /// theirs, which PID 1 inherits.
    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: `status` is writable.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let Some(status) = ExitStatus::from_wait(status) else { continue };
            let ended = self.processes.values_mut().find(|p| p.pid == pid && !p.has_ended());
            if let Some(process) = ended {
                process.ended(status);
                // What they had written is in their pipes: no poll is needed to read it.
            }
        }
    }

    fn report_finished(&mut self) -> Result<(), Error> {
        let finished: Vec<_> = self
            .processes
            .values()
            .filter_map(|process| process.finished().map(|status| (process.id, status)))
            .collect();
        for (process, status) in finished {
            self.processes.remove(&process);
            self.tell(&Report::Exited { process, status })?;
        }
        Ok(())
    }
}

/// What a process on the host inherits from whoever called the runtime, and what it finds: the
/// resource limits and the time.
fn inherit(create: &Create) {
    for (number, (soft, hard)) in create.rlimits.iter().enumerate() {
        let limit = libc::rlimit64 { rlim_cur: *soft, rlim_max: *hard };
        // A limit that the guest's kernel does not know is not inherited: no error on a host
        // of that kernel either.
        // SAFETY: `limit` is readable; the old limit is not asked for.
        unsafe {
            libc::prlimit64(0, number as libc::__rlimit_resource_t, &limit, std::ptr::null_mut())
        };
    }
    let now = libc::timespec {
        tv_sec: (create.now / 1_000_000_000) as libc::time_t,
        tv_nsec: (create.now % 1_000_000_000) as libc::c_long,
    };
    let mut mine = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `mine` is writable, `now` is readable.
    unsafe {
        libc::clock_gettime(libc::CLOCK_REALTIME, &mut mine);
        // A guest with a paravirtual clock is right by itself.
        if (mine.tv_sec - now.tv_sec).abs() > 1 {
            libc::clock_settime(libc::CLOCK_REALTIME, &now);
        }
    }
}
