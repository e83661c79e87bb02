//! The host's side of a process's standard streams.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};

use hull_agent::link::{ExitStatus, Stdio, Stream, WindowSize};
use hull_agent::pump::{Endpoint, Pump, Slots};

/// The direction of a pump, as the workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// The streams of one process, from the caller's descriptors to the guest's connections.
#[derive(Debug)]
pub struct Streams {
    stdio: Stdio,
    /// What the caller gave and no connection has come for yet.
    local: [Option<Rc<Endpoint>>; 3],
    pumps: Vec<(Way, Pump)>,
    slots: Vec<Slots>,
    status: Option<ExitStatus>,
    /// Where the monitor may speak: stderr, or the terminal.
    voice: Weak<Endpoint>,
    /// The terminal's size that the guest knows.
    size: Option<WindowSize>,
}

impl Streams {
    /// For these descriptors: three, or one that is a terminal.
    pub fn new(stdio: Stdio, descriptors: Vec<OwnedFd>) -> Self {
        let mut local = [None, None, None];
        let wanted = match stdio {
            Stdio::Terminal { .. } => [true, false, false],
            Stdio::Streams(streams) => streams.map(|stream| stream == Stream::Host),
        };
        for ((place, wanted), fd) in local.iter_mut().zip(wanted).zip(descriptors) {
            // One that is not wanted is closed here: nobody else waits for its end.
            *place = wanted.then(|| Rc::new(Endpoint::new(fd)));
        }
        let speaker: &Option<Rc<Endpoint>> = match stdio {
            Stdio::Terminal { .. } => &local[0],
            Stdio::Streams(_) => &local[2],
        };
        let voice = speaker.as_ref().map(Rc::downgrade).unwrap_or_default();
        let size = match stdio {
            Stdio::Terminal { size, .. } => size,
            Stdio::Streams(_) => None,
        };
        Self { stdio, local, pumps: Vec::new(), slots: Vec::new(), status: None, voice, size }
    }

    /// How many descriptors go with these streams.
    pub fn count(stdio: Stdio) -> usize {
        match stdio {
            Stdio::Terminal { .. } => 1,
            Stdio::Streams(_) => 3,
        }
    }

    /// The guest's connection for one stream has come. One that nobody asked for is dropped.
    pub fn connect(&mut self, stream: u8, connection: UnixStream) {
        let Some(local) = self.local.get_mut(usize::from(stream)).and_then(Option::take) else {
            return;
        };
        let guest = Rc::new(Endpoint::new(connection.into()));
        match (self.stdio, stream) {
            (Stdio::Terminal { .. }, _) => {
                self.pumps.push((Way::Out, Pump::new(guest.clone(), local.clone())));
                self.pumps.push((Way::In, Pump::new(local, guest)));
            }
            (_, 0) => self.pumps.push((Way::In, Pump::new(local, guest))),
            _ => self.pumps.push((Way::Out, Pump::new(guest, local))),
        }
    }

    /// The process has ended; what the guest has sent of its output is still to be passed on.
    pub fn ended(&mut self, status: ExitStatus) {
        self.status = Some(status);
        self.local[0] = match self.stdio {
            Stdio::Terminal { .. } => self.local[0].take(),
            Stdio::Streams(_) => None,
        };
        for (way, pump) in &mut self.pumps {
            if *way == Way::In {
                pump.abandon();
            }
        }
    }

    /// The status, once all output was passed on.
    pub fn finished(&self) -> Option<ExitStatus> {
        let passed = self.local.iter().all(Option::is_none)
            && self.pumps.iter().all(|(way, pump)| *way == Way::In || pump.is_done());
        self.status.filter(|_| passed)
    }

    /// The guest is gone: nothing more will come.
    pub fn guest_gone(&mut self) {
        self.local = [None, None, None];
    }

    /// Writes what the monitor itself has to say where the workload's errors go.
    pub fn say(&self, text: &str) {
        if let Some(voice) = self.voice.upgrade() {
            voice.say(text.as_bytes());
        }
    }

    /// The terminal's size, if the guest does not know it yet. Asked before keys are passed on, so
    /// that they do not overtake a change that came before them.
    pub fn resized(&mut self) -> Option<WindowSize> {
        if !matches!(self.stdio, Stdio::Terminal { .. }) {
            return None;
        }
        let size = window_size(self.voice.upgrade()?.as_fd())?;
        (self.size.replace(size) != Some(size)).then_some(size)
    }

    /// Adds to a poll set.
    pub fn interest(&mut self, set: &mut Vec<libc::pollfd>) {
        self.slots = self.pumps.iter().map(|(_, pump)| pump.interest(set)).collect();
    }

    /// Carries what can be carried.
    pub fn step(&mut self, set: &[libc::pollfd]) {
        for ((_, pump), slots) in self.pumps.iter_mut().zip(self.slots.drain(..)) {
            pump.step(slots, set);
        }
    }
}

/// What a descriptor given as a standard stream is to the guest: its own `/dev/null` does as
/// well as the host's.
pub fn kind(fd: impl AsFd) -> Stream {
    const NULL: libc::dev_t = libc::makedev(1, 3);
    match nix::sys::stat::fstat(fd) {
        Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == NULL => {
            Stream::Null
        }
        _ => Stream::Host,
    }
}

/// What the guest is to know of a terminal: its size, and whether its newlines are to come out as
/// they are. That mode changes nothing here, where nothing that is printed is changed.
pub fn terminal_of(terminal: impl AsFd) -> Stdio {
    let modes = nix::sys::termios::tcgetattr(&terminal);
    let returns = nix::sys::termios::OutputFlags::ONLCR;
    Stdio::Terminal {
        size: window_size(&terminal),
        plain_newlines: modes.is_ok_and(|modes| !modes.output_flags.contains(returns)),
    }
}

/// The size of a terminal.
pub fn window_size(terminal: impl AsFd) -> Option<WindowSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && (size.ws_row, size.ws_col) != (0, 0))
        .then_some(WindowSize { rows: size.ws_row, cols: size.ws_col })
}
