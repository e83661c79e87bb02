//! One process of the container: its standard streams, and how it ended.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use hull_agent::link::{Connection, ExitStatus, ProcessId, Stdio, Stream};
use hull_agent::pump::{Endpoint, Pump, Slots};

use crate::host;

/// What a process is given as its standard streams, and what carries them.
pub struct Streams {
    /// The process's own ends; none when it gets a terminal.
    ends: Option<[OwnedFd; 3]>,
    pumps: Vec<(u8, Pump)>,
    /// The connection that waits for a terminal's master.
    terminal: Option<Rc<Endpoint>>,
}

impl Streams {
    /// Connects what leads to the host.
    pub fn open(process: ProcessId, stdio: Stdio) -> Result<Self, host::Error> {
        let connect = |stream| -> Result<Rc<Endpoint>, host::Error> {
            let socket = host::connect(Connection::Stream { process, stream })?;
            Ok(Rc::new(Endpoint::new(socket)))
        };
        let streams = match stdio {
            Stdio::Terminal { .. } => {
                let terminal = Some(connect(0)?);
                return Ok(Self { ends: None, pumps: Vec::new(), terminal });
            }
            Stdio::Streams(streams) => streams,
        };
        let mut pumps = Vec::new();
        let mut end = |number: u8| -> Result<OwnedFd, host::Error> {
            let failed = |source| host::Error::Loop { operation: "make a stream", source };
            if streams[usize::from(number)] == Stream::Null {
                let null = OpenOptions::new().read(true).write(true).open("/dev/null");
                return Ok(null.map_err(failed)?.into());
            }
            let host = connect(number)?;
            let (reader, writer) = io::pipe().map_err(failed)?;
            let (mine, its, into) = match number {
                0 => (OwnedFd::from(writer), OwnedFd::from(reader), true),
                _ => (OwnedFd::from(reader), OwnedFd::from(writer), false),
            };
            let mine = Rc::new(Endpoint::own(mine).map_err(failed)?);
            let pump = if into { Pump::new(host, mine) } else { Pump::new(mine, host) };
            pumps.push((number, pump));
            Ok(its)
        };
        let ends = Some([end(0)?, end(1)?, end(2)?]);
        Ok(Self { ends, pumps, terminal: None })
    }

    /// What to hand to the process.
    pub fn ends(&self) -> Option<[BorrowedFd<'_>; 3]> {
        self.ends.as_ref().map(|ends| ends.each_ref().map(|end| end.as_fd()))
    }

    /// The process is there: its ends are let go of, its terminal is joined to the host.
    pub fn attach(mut self, console: Option<OwnedFd>) -> io::Result<Vec<(u8, Pump)>> {
        self.ends = None;
        if let (Some(host), Some(master)) = (self.terminal.take(), console) {
            let master = Rc::new(Endpoint::own_terminal(master)?);
            self.pumps.push((1, Pump::new(master.clone(), host.clone())));
            self.pumps.push((0, Pump::new(host, master)));
        }
        Ok(self.pumps)
    }
}

/// A process that was made.
pub struct Process {
    /// The host's number for it.
    pub id: ProcessId,
    /// Its pid.
    pub pid: i32,
    /// A copy of its terminal's master, to set its size.
    pub terminal: Option<OwnedFd>,
    pumps: Vec<(u8, Pump)>,
    slots: Vec<Slots>,
    status: Option<ExitStatus>,
}

impl Process {
    /// With its streams attached.
    pub fn new(id: ProcessId, pid: i32, terminal: Option<OwnedFd>, pumps: Vec<(u8, Pump)>) -> Self {
        Self { id, pid, terminal, pumps, slots: Vec::new(), status: None }
    }

    /// It ended: nobody reads its stdin, and what it wrote is all it will have written.
    pub fn ended(&mut self, status: ExitStatus) {
        self.status = Some(status);
        for (number, pump) in &mut self.pumps {
            if *number == 0 { pump.abandon() } else { pump.last_words() }
        }
    }

    /// How it ended, once all it wrote was handed to its streams.
    pub fn finished(&self) -> Option<ExitStatus> {
        self.status.filter(|_| self.pumps.iter().all(|(_, pump)| pump.is_done()))
    }

    /// Has it ended, whatever is still to be written?
    pub fn has_ended(&self) -> bool {
        self.status.is_some()
    }

    /// Adds its descriptors to a poll set.
    pub fn interest(&mut self, set: &mut Vec<libc::pollfd>) {
        self.slots = self.pumps.iter().map(|(_, pump)| pump.interest(set)).collect();
    }

    /// Carries what can be carried.
    pub fn step(&mut self, set: &[libc::pollfd]) {
        for ((_, pump), slots) in self.pumps.iter_mut().zip(self.slots.drain(..)) {
            pump.step(slots, set);
        }
    }

    /// How long poll(2) may wait.
    pub fn patience(&self) -> Option<std::time::Duration> {
        self.pumps.iter().filter_map(|(_, pump)| pump.patience()).min()
    }
}
