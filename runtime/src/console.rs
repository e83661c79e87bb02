//! The relay between the caller's terminal and the container's.
//!
//! One thread and one `poll`: what is typed goes to the master, what the container prints
//! goes to stdout, signals come by a descriptor. The caller's terminal is raw meanwhile and
//! restored at the end, however that comes.

use crate::lifecycle::Blocked;
use crate::{Error, Result};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Not more than a pipe takes at once when `poll` says that it takes something.
const CHUNK: usize = 4096;

/// How often a terminal that every process has closed is looked at again, in milliseconds.
const LOOK_AGAIN: i32 = 100;

/// What a terminal makes of Ctrl-D: the end of the input.
const END_OF_INPUT: u8 = 4;

/// The relay of one terminal.
pub struct Relay {
    master: OwnedFd,
    signals: OwnedFd,
    /// Held for its end: the caller's terminal is itself again.
    _raw: Option<Raw>,
    /// Typed, not written to the master yet.
    input: Vec<u8>,
    /// Printed, not written to stdout yet.
    output: Vec<u8>,
    input_open: bool,
    output_open: bool,
    master_open: bool,
    /// No process has the terminal open now, or it was hung up (vhangup(2)), as an init and a getty
    /// do between their programs: it may be opened again.
    hung_up: bool,
}

impl Relay {
    /// Takes the caller's terminal (the first of stdin, stdout, stderr that is one) into raw
    /// mode. Signals are blocked by the caller.
    pub fn new(master: OwnedFd) -> Result<Self> {
        set_nonblocking(master.as_raw_fd())?;
        let set = Blocked::set();
        // SAFETY: the set is initialised; the result is checked.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            let source = io::Error::last_os_error();
            return Err(Error::System { operation: "making a signalfd", source });
        }
        // SAFETY: signalfd returned a descriptor that nobody else knows.
        let signals = unsafe { OwnedFd::from_raw_fd(fd) };
        let relay = Relay {
            master,
            signals,
            _raw: (0..3).find_map(Raw::new),
            input: Vec::new(),
            output: Vec::new(),
            input_open: true,
            output_open: true,
            master_open: true,
            hung_up: false,
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of the caller's.
    fn resize(&self) {
        copy_size(&self.master);
    }

    /// Relays until the child has ended and all that it printed is out; its exit status.
    pub fn run(mut self, pid: i32) -> Result<i32> {
        loop {
            let events = self.poll(if self.hung_up { LOOK_AGAIN } else { -1 })?;
            self.hung_up = false;
            self.transfer(&events);
            if events.signals {
                while let Some(signal) = self.next_signal() {
                    if signal == libc::SIGWINCH {
                        self.resize();
                    }
                    if let Some(status) = crate::lifecycle::take_signal(pid, signal)? {
                        self.drain();
                        return Ok(status);
                    }
                }
            }
        }
    }

    /// Lets out what is there already. A process that lives on with the terminal open is not
    /// waited for.
    pub fn drain(&mut self) {
        self.input_open = false;
        self.input.clear();
        self.hung_up = false;
        while self.output_open && (self.master_open && !self.hung_up || !self.output.is_empty()) {
            let timeout = if self.output.is_empty() { 0 } else { -1 };
            let Ok(events) = self.poll(timeout) else { return };
            if !events.master_in && !events.stdout {
                return;
            }
            self.transfer(&events);
        }
    }

    fn next_signal(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has the size of what signalfd hands out; read only when filled.
        unsafe {
            let read = libc::read(self.signals.as_raw_fd(), info.as_mut_ptr().cast(), size);
            (read == size as isize).then(|| info.assume_init().ssi_signo as i32)
        }
    }

    fn poll(&self, timeout: i32) -> Result<Events> {
        let entry = |fd: RawFd, events| libc::pollfd { fd, events, revents: 0 };
        let wanted = |on: bool, events: libc::c_short| if on { events } else { 0 };
        let master_events = wanted(self.output.is_empty(), libc::POLLIN)
            | wanted(!self.input.is_empty(), libc::POLLOUT);
        let master = self.master_open && !self.hung_up && master_events != 0;
        let mut fds = [
            entry(self.signals.as_raw_fd(), libc::POLLIN),
            // A closed or idle end is left out: its hang-up would be reported for ever.
            entry(if master { self.master.as_raw_fd() } else { -1 }, master_events),
            entry(if self.input_open && self.input.is_empty() { 0 } else { -1 }, libc::POLLIN),
            entry(if self.output_open && !self.output.is_empty() { 1 } else { -1 }, libc::POLLOUT),
        ];
        loop {
            // SAFETY: the array is valid for its length.
            let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
            if ready >= 0 {
                break;
            }
            let source = io::Error::last_os_error();
            if source.kind() != io::ErrorKind::Interrupted {
                return Err(Error::System { operation: "polling the terminal", source });
            }
        }
        let any = libc::POLLHUP | libc::POLLERR;
        Ok(Events {
            signals: fds[0].revents != 0,
            master_in: fds[1].revents & (libc::POLLIN | any) != 0,
            master_out: fds[1].revents & libc::POLLOUT != 0,
            stdin: fds[2].revents != 0,
            stdout: fds[3].revents != 0,
        })
    }

    fn transfer(&mut self, events: &Events) {
        let master = self.master.as_raw_fd();
        if events.stdin {
            match read(0, &mut self.input) {
                Ok(0) | Err(_) => {
                    self.input_open = false;
                    self.input.push(END_OF_INPUT);
                }
                Ok(_) => {}
            }
        }
        if events.master_out && write(master, &mut self.input).is_err() {
            self.input.clear();
            self.input_open = false;
        }
        if events.master_in && self.output.is_empty() {
            match read(master, &mut self.output) {
                Ok(0) => self.master_open = false,
                Err(error) if error.raw_os_error() == Some(libc::EIO) => self.hung_up = true,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    self.master_open = false;
                }
                _ => {}
            }
        }
        if events.stdout && write(1, &mut self.output).is_err() {
            self.output.clear();
            self.output_open = false;
        }
    }
}

/// The size of the caller's terminal, if one of stdin, stdout and stderr is one.
fn window() -> Option<libc::winsize> {
    (0..3).find_map(|fd| {
        let mut size = MaybeUninit::<libc::winsize>::uninit();
        // SAFETY: TIOCGWINSZ writes a winsize; it is read only when that succeeded.
        unsafe {
            (libc::ioctl(fd, libc::TIOCGWINSZ, size.as_mut_ptr()) == 0).then(|| size.assume_init())
        }
    })
}

/// The same as a process's `consoleSize`.
pub fn caller_size() -> Option<oci::spec::Box> {
    let window = window()?;
    let size = oci::spec::BoxBuilder::default();
    size.height(window.ws_row).width(window.ws_col).build().ok()
}

/// Gives a terminal the size of the caller's.
pub fn copy_size(master: &OwnedFd) {
    if let Some(size) = window() {
        // SAFETY: TIOCSWINSZ reads a winsize. A failure leaves the size as it is.
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    }
}

#[derive(Debug)]
struct Events {
    signals: bool,
    master_in: bool,
    master_out: bool,
    stdin: bool,
    stdout: bool,
}

fn read(fd: RawFd, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0_u8; CHUNK];
    // SAFETY: the chunk is valid for its length.
    let count = unsafe { libc::read(fd, chunk.as_mut_ptr().cast(), chunk.len()) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    buffer.extend_from_slice(&chunk[..count]);
    Ok(count)
}

fn write(fd: RawFd, buffer: &mut Vec<u8>) -> io::Result<()> {
    // SAFETY: the buffer is valid for its length.
    let count = unsafe { libc::write(fd, buffer.as_ptr().cast(), buffer.len()) };
    match usize::try_from(count) {
        Ok(count) => {
            buffer.drain(..count);
            Ok(())
        }
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            error => Err(error),
        },
    }
}

fn set_nonblocking(fd: RawFd) -> Result<()> {
    // SAFETY: fcntl with these commands touches no memory.
    let done = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if done {
        Ok(())
    } else {
        let source = io::Error::last_os_error();
        Err(Error::System { operation: "setting the terminal's flags", source })
    }
}

/// A terminal in raw mode but for its output; dropped, it is as before.
struct Raw {
    fd: RawFd,
    before: libc::termios,
}

impl Raw {
    fn new(fd: RawFd) -> Option<Self> {
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr initialises the structure, or fails and it is not read.
        unsafe {
            if libc::tcgetattr(fd, before.as_mut_ptr()) != 0 {
                return None;
            }
            let before = before.assume_init();
            let mut raw = before;
            libc::cfmakeraw(&mut raw);
            // What comes has newlines alone: the returns are this terminal's to add.
            raw.c_oflag |= before.c_oflag & libc::OPOST;
            libc::tcsetattr(fd, libc::TCSANOW, &raw);
            Some(Raw { fd, before })
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: the structure came from tcgetattr.
        unsafe { libc::tcsetattr(self.fd, libc::TCSADRAIN, &self.before) };
    }
}
