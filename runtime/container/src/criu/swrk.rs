//! One CRIU process and the conversation with it.
//!
//! `criu swrk 3` serves one request on descriptor 3 and ends. Directories are named to it by our
//! own descriptor numbers (it opens `/proc/<us>/fd/…`); what it is to inherit it must have itself,
//! from descriptor 4 on.

use super::rpc::{Answer, Features, NOTIFY, Notice, Request};
use super::{Error, rpc};
use crate::cgroups::Entry;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair,
};
use prost::Message;
use std::io::{self, BufRead, BufReader, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Longest answer; CRIU's hold a few numbers and a message.
const MAX_ANSWER: usize = 40 << 10;
/// Where descriptors are parked so that moving one does not overwrite another.
const PARKING: i32 = 256;

/// What CRIU is started with.
#[derive(Default)]
pub(super) struct Setup<'a> {
    /// Its standard streams: they become the restored container's.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Descriptors 4 and on.
    pub inherited: Vec<OwnedFd>,
    /// The cgroup it works in.
    pub entry: Option<Entry>,
}

/// A running CRIU. Dropped, it is told by the closed socket, and waited for.
pub(super) struct Swrk {
    socket: Option<OwnedFd>,
    child: Child,
}

/// Moves a descriptor out of the way of the numbers that CRIU's get.
fn park(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: duplicates a descriptor, touches no memory.
    let fd = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Swrk {
    pub fn start(setup: Setup<'_>) -> Result<Swrk, Error> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|errno| Error::io("make a pair of sockets", errno.into()))?;
        let parked = std::iter::once(theirs.as_fd())
            .chain(setup.inherited.iter().map(|fd| fd.as_fd()))
            .map(park)
            .collect::<io::Result<Vec<_>>>()
            .map_err(|source| Error::io("duplicate a descriptor", source))?;
        drop(theirs);
        let mut command = Command::new("criu");
        command.args(["swrk", "3"]);
        match setup.stdio {
            Some([input, output, error]) => {
                let own = |fd: BorrowedFd<'_>| {
                    fd.try_clone_to_owned()
                        .map(Stdio::from)
                        .map_err(|source| Error::io("duplicate a stream", source))
                };
                command.stdin(own(input)?).stdout(own(output)?).stderr(own(error)?);
            }
            None => {
                command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
            }
        }
        let entry = match setup.entry {
            Some(mut entry) => {
                entry.without_into().map_err(|error| {
                    Error::io(error.to_string(), io::Error::from_raw_os_error(0))
                })?;
                Some(entry)
            }
            None => None,
        };
        let join = move || -> io::Result<()> {
            if let Some(entry) = &entry {
                entry.join()?;
            }
            for (number, fd) in (3..).zip(&parked) {
                // SAFETY: duplicates a descriptor, touches no memory.
                if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: `join` makes system calls on descriptors only.
        unsafe { command.pre_exec(join) };
        let child = command.spawn().map_err(Error::Start)?;
        Ok(Swrk { socket: Some(ours), child })
    }

    /// CRIU's own process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a request and answers what CRIU asks back (by `notice`, which may be given a descriptor)
    /// until the request itself is answered.
    pub fn ask(
        &mut self,
        operation: &'static str,
        request: &Request,
        mut notice: impl FnMut(&Notice, Option<OwnedFd>) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        self.send(operation, request)?;
        loop {
            let (answer, fd) = self.receive(operation)?;
            if answer.kind != NOTIFY {
                return Ok(answer);
            }
            let asked = answer.notify.unwrap_or_default();
            let done = notice(&asked, fd);
            let reply =
                Request { kind: NOTIFY, notify_success: Some(done.is_ok()), ..Request::default() };
            let sent = self.send(operation, &reply);
            done?;
            sent?;
        }
    }

    fn send(&self, operation: &'static str, request: &Request) -> Result<(), Error> {
        let Some(socket) = &self.socket else { return Err(Error::Garbled(operation)) };
        send(socket.as_raw_fd(), &request.encode_to_vec(), MsgFlags::MSG_NOSIGNAL)
            .map(|_| ())
            .map_err(|errno| Error::io("send a request to criu", errno.into()))
    }

    fn receive(&self, operation: &'static str) -> Result<(Answer, Option<OwnedFd>), Error> {
        let Some(socket) = &self.socket else { return Err(Error::Garbled(operation)) };
        let mut buffer = vec![0u8; MAX_ANSWER];
        let mut space = nix::cmsg_space!([i32; 1]);
        let (count, fd) = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<()>(
                socket.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(Error::io("receive criu's answer", errno.into())),
                Ok(message) => {
                    let mut fds = Vec::new();
                    for control in message.cmsgs().into_iter().flatten() {
                        if let ControlMessageOwned::ScmRights(list) = control {
                            // SAFETY: the kernel made these descriptors for us just now.
                            fds.extend(
                                list.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                            );
                        }
                    }
                    break (message.bytes, fds.pop());
                }
            }
        };
        if count == 0 {
            return Err(Error::Failed {
                operation,
                detail: ": it ended without an answer".to_owned(),
            });
        }
        if count == MAX_ANSWER {
            return Err(Error::Garbled(operation));
        }
        let answer = Answer::decode(&buffer[..count]).map_err(|_| Error::Garbled(operation))?;
        Ok((answer, fd))
    }

    /// Ends the conversation and waits for CRIU's end.
    pub fn finish(mut self, operation: &'static str) -> Result<bool, Error> {
        self.socket = None;
        let status = self
            .child
            .wait()
            .map_err(|source| Error::io(format!("wait for criu ({operation})"), source))?;
        Ok(status.success())
    }
}

impl Drop for Swrk {
    fn drop(&mut self) {
        self.socket = None;
        let _ = self.child.wait();
    }
}

/// Fails when CRIU, or the kernel under it, lacks a feature.
pub(super) fn require(option: &str, wanted: Features) -> Result<(), Error> {
    let mut swrk = Swrk::start(Setup::default())?;
    let request =
        Request { kind: rpc::FEATURE_CHECK, features: Some(wanted.clone()), ..Request::default() };
    let answer = swrk.ask("check features", &request, |_, _| Ok(()))?;
    let has = answer.features.unwrap_or_default();
    let missing = |want: Option<bool>, has: Option<bool>| want == Some(true) && has != Some(true);
    if !answer.success
        || missing(wanted.mem_track, has.mem_track)
        || missing(wanted.lazy_pages, has.lazy_pages)
    {
        return Err(Error::Unsupported {
            what: option.to_owned(),
            reason: "criu or this kernel lacks what it needs".to_owned(),
        });
    }
    Ok(())
}

/// What CRIU's answer and its log say of a failure.
pub(super) fn failure(operation: &'static str, answer: Option<&Answer>, log: &Path) -> Error {
    let mut detail = String::new();
    if let Some(errno) = answer.and_then(|answer| answer.errno).filter(|&errno| errno != 0) {
        detail.push_str(&format!(": {}", io::Error::from_raw_os_error(errno)));
    }
    if let Some(message) = answer.and_then(|answer| answer.message.as_deref()) {
        detail.push_str(&format!(": {}", message.trim()));
    }
    let errors = errors_of(log);
    if !errors.is_empty() {
        detail.push_str(&format!("; {}: {}", log.display(), errors.join("; ")));
    }
    Error::Failed { operation, detail }
}

/// The first error lines of a log: what follows is mostly their echo.
fn errors_of(log: &Path) -> Vec<String> {
    const SHOWN: usize = 5;
    let Ok(file) = std::fs::File::open(log) else { return Vec::new() };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines
        .filter(|line| line.contains("Error ("))
        .take(SHOWN)
        .map(|line| line.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_errors_of_a_log_are_quoted() {
        let path = std::env::temp_dir().join(format!("hull-criu-log-{}", std::process::id()));
        std::fs::write(
            &path,
            "(0.1) fine\n(0.2) Error (criu/x.c:1): a\n(0.3) Error (criu/y.c:2): b\n",
        )
        .unwrap();
        let answer = Answer {
            errno: Some(libc::ENOENT),
            message: Some("words\n".into()),
            ..Answer::default()
        };
        let text = failure("dump", Some(&answer), &path).to_string();
        std::fs::remove_file(&path).unwrap();
        for part in
            ["failed to dump", "No such file", "words", "(criu/x.c:1): a", "(criu/y.c:2): b"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
