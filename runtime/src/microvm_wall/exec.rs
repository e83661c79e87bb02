//! Another process in a running microVM, and the process of the host that stands for it.
//!
//! The *proxy* is a child of the caller, as a process in a container would be: its pid is what
//! engines are told, signals sent to it reach the guest's process, killing it kills that one, and
//! it exits with its status. The streams do not pass through it: the monitor is handed the
//! caller's descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use container::pty;
use hull_agent::link::{Decoder, MAX_REPORT, Stdio, frame};
use hull_agent::pump;

use super::create::open_terminal;
use super::monitor::{Came, Signals, kind, terminal_of, window_size};
use super::protocol::{self, Command, Outcome};
use super::{Error, plan};
use crate::wall::{Container, Exec, ExecRequest};

/// What a proxy exits with when the monitor has died: as if it had been killed with it.
const KILLED: i32 = 128 + libc::SIGKILL;

/// Runs a process; gives the pid of its proxy.
pub fn exec(container: &Container, request: &ExecRequest<'_>) -> crate::Result<Exec> {
    if request.preserve_fds > 0 {
        let why = "an open file of the host cannot be handed to the guest";
        return Err(Error::Plan(plan::Error::Flag { flag: "--preserve-fds", why }).into());
    }
    let stream = protocol::connect(&container.state_dir)?;
    let (stdio, descriptors, console) = streams(request)?;
    let terminal = match stdio {
        Stdio::Terminal { .. } => descriptors.first().map(OwnedFd::try_clone).transpose(),
        Stdio::Streams(_) => Ok(None),
    };
    let terminal = terminal.map_err(Error::system("duplicate a terminal"))?;
    let command = Command::Exec {
        process: Box::new(request.process.clone()),
        stdio,
        cgroup: request.cgroup.to_vec(),
        ignore_paused: request.ignore_paused,
    };
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    protocol::write_with(&stream, &command, &borrowed).map_err(Error::from)?;
    drop(descriptors);
    if request.ignore_paused {
        // A paused guest answers when it is resumed.
        stream.set_read_timeout(None).map_err(Error::system("lift a time limit"))?;
    }
    match frame::read(&stream, MAX_REPORT).map_err(Error::from)? {
        Some(Outcome::Done) => {}
        Some(Outcome::Failed(text)) => return Err(Error::Monitor(text).into()),
        Some(_) => return Err(Error::Answer { to: "exec" }.into()),
        None => return Err(Error::MonitorGone { during: "exec" }.into()),
    }
    let pid = proxy(stream, terminal)?;
    let console = match (request.console_socket, console) {
        (Some(path), Some(master)) => {
            pty::send(path, master)?;
            None
        }
        (_, console) => console,
    };
    Ok(Exec { pid, console })
}

/// The descriptors to hand over, what they are, and the terminal's master.
fn streams(request: &ExecRequest<'_>) -> crate::Result<(Stdio, Vec<OwnedFd>, Option<OwnedFd>)> {
    if request.process.terminal().unwrap_or(false) {
        let (master, slave) = open_terminal(request.console_socket.is_none())?;
        if let Some(size) = request.process.console_size() {
            let size = pty::Size { rows: size.height() as u16, columns: size.width() as u16 };
            pty::resize(&master, size)?;
        }
        let stdio = terminal_of(&slave);
        return Ok((stdio, vec![slave], Some(master)));
    }
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let own: [BorrowedFd<'_>; 3] = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let given = request.stdio.unwrap_or(own);
    let kinds = given.map(kind);
    let mut descriptors = Vec::new();
    for fd in given {
        let copy = fd.try_clone_to_owned();
        // The monitor cannot open them anew any more: that is done for it here.
        descriptors.push(pump::private(copy.map_err(Error::system("duplicate a stream"))?));
    }
    Ok((Stdio::Streams(kinds), descriptors, None))
}

/// Makes the proxy.
fn proxy(stream: UnixStream, terminal: Option<OwnedFd>) -> Result<i32, Error> {
    // SAFETY: this program has one thread; the child goes on as a copy of it.
    match unsafe { libc::fork() } {
        -1 => Err(Error::system("fork")(io::Error::last_os_error())),
        0 => {
            let code = stand_in(&stream, terminal.as_ref()).unwrap_or(KILLED);
            // SAFETY: _exit does not return.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

/// The proxy's life; `None` if the monitor ended first.
fn stand_in(stream: &UnixStream, terminal: Option<&OwnedFd>) -> Option<i32> {
    detach(stream, terminal);
    stream.set_nonblocking(true).ok()?;
    let signals = Signals::watch().ok()?;
    // It may have been resized before anybody watched.
    let mut size = None;
    let mut decoder = Decoder::new(MAX_REPORT);
    let mut unsent = terminal.is_some();
    loop {
        if std::mem::take(&mut unsent)
            && let Some(now) = terminal.and_then(window_size)
            && size.replace(now) != Some(now)
        {
            frame::write(stream, &Command::Resize(now)).ok()?;
        }
        let entry = |fd: BorrowedFd<'_>| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut set = [entry(stream.as_fd()), entry(signals.as_fd())];
        // SAFETY: `set` is an array of two.
        unsafe { libc::poll(set.as_mut_ptr(), 2, -1) };
        if set[1].revents != 0 {
            while let Some(came) = signals.next() {
                match came {
                    Came::Resized => unsent = true,
                    Came::Forward(signal) => {
                        frame::write(stream, &Command::Forward(signal)).ok()?;
                    }
                }
            }
        }
        if set[0].revents != 0 {
            let mut buffer = [0; 4096];
            match protocol::receive(stream, &mut buffer, &mut Vec::new()) {
                Ok(0) => return None,
                Ok(n) => decoder.push(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
            while let Some(outcome) = decoder.take::<Outcome>().ok()? {
                if let Outcome::Exited(code) = outcome {
                    return Some(code);
                }
            }
        }
    }
}

/// Lets go of everything but the connection and the terminal: whoever waits for the end of the
/// caller's streams waits for the guest's process, not for its proxy.
fn detach(stream: &UnixStream, terminal: Option<&OwnedFd>) {
    let mut kept = [stream.as_raw_fd(), terminal.map_or(-1, AsRawFd::as_raw_fd)];
    kept.sort_unstable();
    // SAFETY: system calls on descriptors of this process, which nothing uses from here on; the
    // two that are used are kept.
    unsafe {
        libc::setsid();
        if let Some(terminal) = terminal {
            libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0);
        }
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for number in 0..3 {
            libc::dup2(null, number);
        }
        let mut first: libc::c_uint = 3;
        for fd in kept.into_iter().filter(|fd| *fd >= 3) {
            let fd = fd as libc::c_uint;
            if fd > first {
                libc::syscall(libc::SYS_close_range, first, fd - 1, 0);
            }
            first = fd + 1;
        }
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"hull-exec".as_ptr());
    }
}
