//! Terminals: a socket that receives one, and one made here.

use crate::wait::{PATIENCE, within};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// The socket of `--console-socket`.
pub struct ConsoleSocket {
    listener: UnixListener,
    /// Its path.
    pub path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at `path`.
    pub fn new(path: PathBuf) -> ConsoleSocket {
        let listener = UnixListener::bind(&path).expect("a console socket");
        listener.set_nonblocking(true).expect("not blocking");
        ConsoleSocket { listener, path }
    }

    /// The terminal that came.
    #[track_caller]
    pub fn receive(&self) -> Terminal {
        let stream = within(PATIENCE, || self.listener.accept().ok())
            .expect("nobody connected to the console socket")
            .0;
        stream.set_nonblocking(false).expect("blocking");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Terminal::new(receive_fd(&stream).expect("a descriptor on the console socket"))
    }
}

/// Receives one descriptor (unix(7), SCM_RIGHTS).
pub fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    receive_fds(stream)?
        .into_iter()
        .next()
        .map(|(fd, _)| fd)
        .ok_or_else(|| io::Error::other("a message without a descriptor"))
}

/// Receives the descriptors of one message, with the bytes that came along.
pub fn receive_fds(stream: &UnixStream) -> io::Result<Vec<(OwnedFd, Vec<u8>)>> {
    let mut bytes = [0u8; 65536];
    let mut control = [0u64; 32];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is a valid one without anything in it.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    // SAFETY: the message points to buffers that live through the call.
    let length = unsafe { libc::recvmsg(stream.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer; the macros stay inside it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let count =
                    ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / mem::size_of::<RawFd>();
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..count {
                    let fd = OwnedFd::from_raw_fd(data.add(index).read_unaligned());
                    fds.push((fd, bytes[..length as usize].to_vec()));
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(fds)
}

/// The outer end of a terminal.
pub struct Terminal {
    file: File,
    seen: Vec<u8>,
}

impl Terminal {
    /// Takes the outer end.
    pub fn new(fd: OwnedFd) -> Terminal {
        // SAFETY: fcntl with integers on a descriptor that is ours.
        unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
        }
        Terminal { file: fd.into(), seen: Vec::new() }
    }

    /// Types these words.
    pub fn types(&mut self, words: &str) {
        let mut left = words.as_bytes();
        within(PATIENCE, || {
            match self.file.write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("typing: {error}"),
            }
            left.is_empty().then_some(())
        })
        .expect("typing did not end");
    }

    /// Waits until these words were shown.
    #[track_caller]
    pub fn shows(&mut self, words: &str) {
        self.shows_within(PATIENCE, words);
    }

    /// Waits until these words were shown, longer or shorter than usual.
    #[track_caller]
    pub fn shows_within(&mut self, time: Duration, words: &str) {
        let mut ended = false;
        let found = within(time, || {
            ended = !self.look() || ended;
            if self.text().contains(words) {
                return Some(true);
            }
            ended.then_some(false)
        });
        if found != Some(true) {
            panic!("the terminal did not show {words:?} but {:?} (ended: {ended})", self.text());
        }
    }

    /// Types these keys, again and again, until the words are shown.
    #[track_caller]
    pub fn answers(&mut self, keys: &str, words: &str) {
        let answered = within(PATIENCE, || {
            self.types(keys);
            std::thread::sleep(Duration::from_millis(50));
            self.look();
            self.text().contains(words).then_some(())
        });
        assert!(answered.is_some(), "{keys:?} was not answered by {words:?} but {:?}", self.text());
    }

    /// Forgets what was shown.
    pub fn forgets(&mut self) {
        self.look();
        self.seen.clear();
    }

    /// Waits until the inner end is closed.
    #[track_caller]
    pub fn ends(&mut self) {
        if within(PATIENCE, || (!self.look()).then_some(())).is_none() {
            panic!("the terminal did not end; it showed {:?}", self.text());
        }
    }

    /// All that was shown.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Reads what is there; false at the end.
    fn look(&mut self) -> bool {
        let mut buffer = [0u8; 4096];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.seen.extend(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // EIO: the last inner end was closed (pty(7)).
                Err(_) => return false,
            }
        }
    }

    /// Sets its size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(result, 0, "TIOCSWINSZ");
    }

    /// Its size.
    pub fn size(&self) -> (u16, u16) {
        // SAFETY: an all-zero winsize is a valid one.
        let mut size: libc::winsize = unsafe { mem::zeroed() };
        // SAFETY: TIOCGWINSZ writes one winsize.
        unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
        (size.ws_row, size.ws_col)
    }
}

/// Makes a terminal: the outer end and the inner one.
pub fn open() -> (Terminal, OwnedFd) {
    let (mut outer, mut inner) = (-1, -1);
    // SAFETY: openpty writes two descriptors; the other pointers may be null.
    let result = unsafe {
        libc::openpty(
            &mut outer,
            &mut inner,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    assert_eq!(result, 0, "openpty: {}", io::Error::last_os_error());
    for fd in [outer, inner] {
        // SAFETY: fcntl with integers on a descriptor that is ours.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: both descriptors are new and ours.
    unsafe { (Terminal::new(OwnedFd::from_raw_fd(outer)), OwnedFd::from_raw_fd(inner)) }
}

/// A pipe.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0, "pipe2");
    // SAFETY: both descriptors are new and ours.
    unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) }
}
