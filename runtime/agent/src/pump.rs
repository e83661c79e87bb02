//! Carrying bytes between two descriptors without ever blocking.
//!
//! A standard stream of a workload in a microVM passes two of these: one in the agent, between
//! a pipe or a terminal and the host link, one in the monitor, between the host link and what
//! the caller gave as stdin, stdout or stderr. The second may share its file description with a
//! shell, so that O_NONBLOCK may not be set on it; [`Endpoint`] knows how to go about each kind.
//!
//! A reader that goes away is noticed before the next write (POLLERR), and passed on to the
//! source at once: that is what makes the workload get SIGPIPE where it would on the host.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A pipe takes this much without blocking once poll(2) says that it is writable: one page.
const CAREFUL: usize = 4096;

/// The bytes a pump holds at most: what a pipe holds.
const CAPACITY: usize = 64 << 10;

/// What is read at first: most streams say little, and fresh pages cost a guest dearly.
const SMALL: usize = 4096;

/// How long a terminal whose process has ended may stay silent before its output is taken for
/// complete: a pty hands over what was written from a kernel work item, a moment later.
const TERMINAL_SILENCE: Duration = Duration::from_millis(50);

/// How a descriptor is read and written without blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A socket: the call says that it must not block.
    Socket,
    /// A file description of our own, with O_NONBLOCK.
    Own,
    /// A description shared with others: used only when poll(2) says so, a page at a time.
    Shared,
}

/// One end of a pump.
#[derive(Debug)]
pub struct Endpoint {
    fd: OwnedFd,
    kind: Kind,
    terminal: bool,
}

impl Endpoint {
    /// A descriptor of whatever kind, possibly shared with others. Pipes, FIFOs and terminals
    /// are opened anew to have a description of our own ([`private`]), where allowed.
    pub fn new(fd: OwnedFd) -> Self {
        // SAFETY: an all-zero stat is a valid value, and fstat only writes it.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open for as long as `fd` lives; `stat` is writable.
        if unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } != 0 {
            return Self { fd, kind: Kind::Shared, terminal: false };
        }
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFSOCK => Self { fd, kind: Kind::Socket, terminal: false },
            libc::S_IFIFO | libc::S_IFCHR => {
                // SAFETY: isatty only asks the descriptor.
                let terminal = unsafe { libc::isatty(fd.as_raw_fd()) } == 1;
                let fd = private(fd);
                let own = flags(&fd).is_some_and(|flags| flags & libc::O_NONBLOCK != 0);
                Self { fd, kind: if own { Kind::Own } else { Kind::Shared }, terminal }
            }
            _ => Self { fd, kind: Kind::Shared, terminal: false },
        }
    }

    /// A descriptor that nobody else uses: O_NONBLOCK is set on it.
    pub fn own(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self { fd, kind: Kind::Own, terminal: false })
    }

    /// The master of a terminal that nobody else uses.
    pub fn own_terminal(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self { fd, kind: Kind::Own, terminal: true })
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (raw, len) = (self.fd.as_raw_fd(), buffer.len());
        let pointer = buffer.as_mut_ptr().cast();
        let n = match self.kind {
            // SAFETY: `pointer` and `len` describe `buffer`, which is writable.
            Kind::Socket => unsafe { libc::recv(raw, pointer, len, libc::MSG_DONTWAIT) },
            // SAFETY: as above.
            Kind::Own | Kind::Shared => unsafe { libc::read(raw, pointer, len) },
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn write(&self, buffer: &[u8]) -> io::Result<usize> {
        let raw = self.fd.as_raw_fd();
        let len = match self.kind {
            Kind::Shared => buffer.len().min(CAREFUL),
            Kind::Socket | Kind::Own => buffer.len(),
        };
        let pointer = buffer.as_ptr().cast();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let n = match self.kind {
            // SAFETY: `pointer` and `len` lie inside `buffer`.
            Kind::Socket => unsafe { libc::send(raw, pointer, len, flags) },
            // SAFETY: as above.
            Kind::Own | Kind::Shared => unsafe { libc::write(raw, pointer, len) },
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Writes what fits now, for a message of the carrier's own.
    pub fn say(&self, text: &[u8]) {
        let _ = self.write(text);
    }

    /// Tells the reader that no more will come; other kinds are closed by dropping.
    fn end_of_stream(&self) {
        if self.kind == Kind::Socket {
            // SAFETY: shutdown takes no memory; failure means that it is over anyway.
            unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_WR) };
        }
    }

    /// Tells the writer that nobody reads any more; other kinds are closed by dropping.
    fn stop_reading(&self) {
        if self.kind == Kind::Socket {
            // SAFETY: as in `end_of_stream`.
            unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RD) };
        }
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn flags(fd: &OwnedFd) -> Option<i32> {
    // SAFETY: fcntl with F_GETFL takes no memory.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    (flags >= 0).then_some(flags)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = flags(fd).ok_or_else(io::Error::last_os_error)? | libc::O_NONBLOCK;
    // SAFETY: fcntl with F_SETFL takes no memory.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A description of our own of the same pipe or terminal, with O_NONBLOCK, opened through
/// `/proc/self/fd`; where that is not possible or needed, the descriptor itself.
pub fn private(fd: OwnedFd) -> OwnedFd {
    use std::os::unix::fs::OpenOptionsExt;
    let Some(flags) = flags(&fd).filter(|flags| flags & libc::O_NONBLOCK == 0) else { return fd };
    // SAFETY: an all-zero stat is a valid value, and fstat only writes it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open for as long as `fd` lives; `stat` is writable.
    let known = unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } == 0;
    if !known || !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFCHR) {
        return fd;
    }
    let access = flags & libc::O_ACCMODE;
    let own = std::fs::OpenOptions::new()
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    own.map_or(fd, OwnedFd::from)
}

/// Carries bytes one way.
#[derive(Debug)]
pub struct Pump {
    ends: Option<Ends>,
    buffer: Vec<u8>,
    sent: usize,
    source_ended: bool,
    /// The last read filled what it was given.
    busy: bool,
    /// Set when the source's process is gone: silence now means the end.
    last_words: Option<Instant>,
}

#[derive(Debug)]
struct Ends {
    from: Rc<Endpoint>,
    to: Rc<Endpoint>,
}

/// Where in a poll set a pump's descriptors stand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slots {
    from: Option<usize>,
    to: Option<usize>,
}

impl Pump {
    /// From one to the other, until the source ends or the target is gone.
    pub fn new(from: Rc<Endpoint>, to: Rc<Endpoint>) -> Self {
        Self {
            ends: Some(Ends { from, to }),
            buffer: Vec::new(),
            sent: 0,
            source_ended: false,
            busy: false,
            last_words: None,
        }
    }

    /// Is there nothing left to do?
    pub fn is_done(&self) -> bool {
        self.ends.is_none()
    }

    /// Gives up: both ends are told.
    pub fn abandon(&mut self) {
        if let Some(ends) = self.ends.take() {
            ends.from.stop_reading();
            ends.to.end_of_stream();
        }
        self.buffer = Vec::new();
    }

    /// The process that writes to the source is gone: what is there now is all there will be.
    pub fn last_words(&mut self) {
        self.last_words.get_or_insert_with(Instant::now);
    }

    /// Adds to a poll set what this pump waits for.
    pub fn interest(&self, set: &mut Vec<libc::pollfd>) -> Slots {
        let Some(ends) = &self.ends else { return Slots::default() };
        let pending = self.sent < self.buffer.len();
        let mut add = |end: &Endpoint, events| {
            set.push(libc::pollfd { fd: end.fd.as_raw_fd(), events, revents: 0 });
            Some(set.len() - 1)
        };
        Slots {
            from: if pending || self.source_ended { None } else { add(&ends.from, libc::POLLIN) },
            // Without POLLOUT it still tells when the reader goes away.
            to: add(&ends.to, if pending { libc::POLLOUT } else { 0 }),
        }
    }

    /// How long poll(2) may wait as far as this pump is concerned.
    pub fn patience(&self) -> Option<Duration> {
        self.last_words.filter(|_| self.ends.is_some()).map(|since| {
            let terminal = self.ends.as_ref().is_some_and(|ends| ends.from.terminal);
            let silence = if terminal { TERMINAL_SILENCE } else { Duration::ZERO };
            silence.saturating_sub(since.elapsed())
        })
    }

    /// Does what the poll set says is possible.
    pub fn step(&mut self, slots: Slots, set: &[libc::pollfd]) {
        let seen = |slot: Option<usize>| slot.and_then(|i| set.get(i)).map_or(0, |p| p.revents);
        let (from, to) = (seen(slots.from), seen(slots.to));
        if self.ends.is_none() {
            return;
        }
        let gone = libc::POLLERR | libc::POLLNVAL;
        let hung_up = to & libc::POLLHUP != 0 && to & libc::POLLOUT == 0;
        if to & gone != 0 || hung_up {
            self.abandon();
            return;
        }
        if to & libc::POLLOUT != 0 {
            self.flush();
        }
        let readable = from & (libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0;
        if readable || (self.last_words.is_some() && slots.from.is_some()) {
            self.fill(readable);
        }
    }

    /// Reads once and passes on what came.
    fn fill(&mut self, readable: bool) {
        let Some(ends) = &self.ends else { return };
        if !readable && ends.from.kind == Kind::Shared {
            self.source_ended = true;
            self.finish();
            return;
        }
        // What was sent is forgotten here: the buffer is empty whenever the source is read.
        self.sent = 0;
        let room = if self.busy { CAPACITY } else { SMALL };
        self.buffer.resize(room, 0);
        let result = ends.from.read(&mut self.buffer);
        match result {
            Ok(0) => self.source_ends(),
            Ok(n) => {
                self.busy = n == room;
                self.buffer.truncate(n);
                if self.last_words.is_some() {
                    self.last_words = Some(Instant::now());
                }
                self.flush();
            }
            Err(error) => {
                self.buffer.clear();
                match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => {
                        if self.patience().is_some_and(|left| left.is_zero()) {
                            self.source_ends();
                        }
                    }
                    // EIO: the last holder of a terminal's other side is gone.
                    _ => self.source_ends(),
                }
            }
        }
    }

    fn source_ends(&mut self) {
        self.buffer = Vec::new();
        self.sent = 0;
        self.source_ended = true;
        self.finish();
    }

    fn flush(&mut self) {
        while self.sent < self.buffer.len() {
            let Some(ends) = &self.ends else { return };
            match ends.to.write(&self.buffer[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    if ends.to.kind == Kind::Shared && self.sent < self.buffer.len() {
                        return;
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return,
                    _ => {
                        self.abandon();
                        return;
                    }
                },
            }
        }
        self.buffer.clear();
        self.sent = 0;
        self.finish();
    }

    fn finish(&mut self) {
        if self.source_ended
            && self.sent == self.buffer.len()
            && let Some(ends) = self.ends.take()
        {
            ends.to.end_of_stream();
            self.buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn run(pumps: &mut [Pump]) {
        for _ in 0..100_000 {
            if pumps.iter().all(Pump::is_done) {
                return;
            }
            let mut set = Vec::new();
            let slots: Vec<_> = pumps.iter().map(|p| p.interest(&mut set)).collect();
            // SAFETY: `set` is a valid array of its length.
            unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, 1000) };
            for (pump, slots) in pumps.iter_mut().zip(slots) {
                pump.step(slots, &set);
            }
        }
        panic!("a pump does not come to an end");
    }

    fn end(fd: impl Into<OwnedFd>) -> Rc<Endpoint> {
        Rc::new(Endpoint::new(fd.into()))
    }

    #[test]
    fn a_megabyte_passes_unchanged_through_pipe_socket_pipe() {
        let (source, mut feed) = io::pipe().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let (mut drain, sink) = io::pipe().unwrap();
        let data: Vec<u8> = (0..1u32 << 20).map(|i| (i * 7 / 3) as u8).collect();
        let expected = data.clone();
        let writer = std::thread::spawn(move || feed.write_all(&data).unwrap());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            drain.read_to_end(&mut all).unwrap();
            all
        });
        let mut pumps = [Pump::new(end(source), end(near)), Pump::new(end(far), end(sink))];
        run(&mut pumps);
        drop(pumps);
        writer.join().unwrap();
        assert!(reader.join().unwrap() == expected);
    }

    #[test]
    fn a_reader_that_goes_away_is_passed_on_without_a_write() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (drain, sink) = io::pipe().unwrap();
        drop(drain);
        let mut pumps = [Pump::new(end(near), end(sink))];
        run(&mut pumps);
        drop(pumps);
        let error = far.write(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn last_words_end_a_stream_that_others_hold_open() {
        let (source, mut feed) = io::pipe().unwrap();
        let (mut drain, sink) = io::pipe().unwrap();
        feed.write_all(b"last words").unwrap();
        let mut pumps = [Pump::new(end(source), end(sink))];
        pumps[0].last_words();
        run(&mut pumps);
        drop(pumps);
        let mut all = String::new();
        drain.read_to_string(&mut all).unwrap();
        assert_eq!(all, "last words");
        drop(feed);
    }
}
