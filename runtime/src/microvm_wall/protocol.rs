//! What the runtime's commands and the monitor say to each other, in the frames of the host link.
//!
//! Two ways lead to a monitor. Its *creator* holds one end of a socket pair, over which the
//! monitor is told what to make; the creator's death before it has let go is seen there. Every
//! later command connects to the control socket, [`SOCKET`] in the state directory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_agent::link::{FrameError, MAX_REPORT, ProcessRow, Stdio, WindowSize, frame};
use oci::spec::{LinuxResources, Process};
use serde::{Deserialize, Serialize};

use super::Error;

/// The control socket's name in the state directory.
pub const SOCKET: &str = "control.sock";

/// The descriptor on which a monitor finds its creator.
pub const CREATOR_FD: RawFd = 3;

/// The descriptor on which a monitor finds the state directory, and shares its lock.
pub const STATE_FD: RawFd = 4;

/// How long a command waits for the monitor. A guest answers in milliseconds, a host under
/// heavy load in seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a monitor is to make.
#[derive(Debug, Serialize, Deserialize)]
pub struct Launch {
    /// The container's id.
    pub id: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The bundle's configuration.
    pub config: oci::Config,
    /// vCPUs.
    pub vcpus: u8,
    /// Guest memory in bytes.
    pub memory: u64,
    /// The kernel's ELF image.
    pub kernel: PathBuf,
    /// The parts of the initramfs.
    pub initrd: Vec<Initrd>,
    /// More of the kernel's command line.
    pub cmdline: String,
    /// How long the guest may take, in milliseconds.
    pub boot_timeout: u64,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// When the creator began, nanoseconds of CLOCK_MONOTONIC.
    pub began: u64,
}

/// A part of the initramfs.
#[derive(Debug, Serialize, Deserialize)]
pub enum Initrd {
    /// A file.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// What the creator says after the launch.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Run the workload.
    Start,
    /// The creator is content: its end is not to be the container's.
    Keep,
}

/// What the monitor tells its creator.
#[derive(Debug, Serialize, Deserialize)]
pub enum News {
    /// Namespaces and cgroup are there: hooks may run, while the guest boots.
    Placed {
        /// The monitor's cgroup.
        cgroup: container::cgroups::Record,
    },
    /// The container waits to be started.
    Created {
        /// What happened when, in microseconds since the creator began.
        phases: Vec<(String, u64)>,
    },
    /// The workload runs.
    Started,
    /// It has failed; the monitor undoes what it has made and ends.
    Failed(String),
}

/// What a command asks over the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Run the workload.
    Start,
    /// Where does the container stand?
    State,
    /// Send a signal to the first process, or to all.
    Signal {
        /// Its number.
        signal: i32,
        /// To all processes.
        all: bool,
    },
    /// Hold the guest.
    Pause,
    /// Let it go on.
    Resume,
    /// Change the limits that the guest enforces.
    Update(Box<LinuxResources>),
    /// Read the guest's statistics.
    Stats,
    /// List the guest's pids of the container.
    Processes,
    /// Run another process; its standard streams come along as descriptors.
    Exec {
        /// The process.
        process: Box<Process>,
        /// What the descriptors are.
        stdio: Stdio,
        /// `--cgroup`.
        cgroup: Vec<String>,
        /// `--ignore-paused`.
        ignore_paused: bool,
    },
    /// Send a signal to the process that this connection runs.
    Forward(i32),
    /// The terminal of the process that this connection runs has a new size.
    Resize(WindowSize),
}

/// What the monitor answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It was done.
    Done,
    /// The container's status.
    Status(oci::Status),
    /// Statistics.
    Stats(serde_json::Value),
    /// The container's processes, as the guest counts them.
    Processes(Vec<ProcessRow>),
    /// The process that this connection runs has ended.
    Exited(i32),
    /// It could not be done.
    Failed(String),
}

/// Connects to the monitor's control socket. Its path may be longer than an address holds, so
/// that it is named through its directory's descriptor.
pub fn connect(state_dir: &Path) -> Result<UnixStream, Error> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(state_dir, flags, nix::sys::stat::Mode::empty())
        .map_err(Error::system("open the state directory"))?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    let stream =
        UnixStream::connect(path).map_err(Error::system("connect to the microVM's monitor"))?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(Error::system("set a time limit on the control socket"))?;
    Ok(stream)
}

/// Asks one thing and waits for the answer.
pub fn ask(state_dir: &Path, command: &Command, to: &'static str) -> Result<Outcome, Error> {
    let stream = connect(state_dir)?;
    frame::write(&stream, command)?;
    match frame::read(&stream, MAX_REPORT)? {
        Some(Outcome::Failed(text)) => Err(Error::Monitor(text)),
        Some(outcome) => Ok(outcome),
        None => Err(Error::MonitorGone { during: to }),
    }
}

/// Room for the control message of three descriptors.
const ROOM: usize = 64;

#[repr(align(8))]
struct Ancillary([u8; ROOM]);

/// Writes one frame and sends up to three descriptors with its first bytes.
pub fn write_with(
    stream: &UnixStream,
    message: &Command,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), FrameError> {
    use std::io::Write as _;
    let mut bytes = Vec::new();
    frame::encode(message, &mut bytes)?;
    let slices = [io::IoSlice::new(&bytes)];
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [nix::sys::socket::ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
    let sent = nix::sys::socket::sendmsg::<()>(stream.as_raw_fd(), &slices, rights, flags, None)
        .map_err(io::Error::from)?;
    let mut rest = stream;
    rest.write_all(&bytes[sent..])?;
    Ok(())
}

/// Receives what is there, without waiting; descriptors that came along are appended.
pub fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut room = Ancillary([0; ROOM]);
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero msghdr is a valid value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &mut slice;
    message.msg_iovlen = 1;
    message.msg_control = room.0.as_mut_ptr().cast();
    message.msg_controllen = ROOM;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to `slice`, which describes `buffer`, and to `room`.
    let n = unsafe { libc::recvmsg(stream.as_raw_fd(), &mut message, flags) };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled in `message`; the macros stay inside `msg_controllen`.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while let Some(head) = header.as_ref() {
            if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
                let len = head.cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for i in 0..len / size_of::<RawFd>() {
                    // The kernel has just installed this descriptor for us.
                    descriptors.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_agent::link::Decoder;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_travel_with_their_message() {
        let (near, far) = UnixStream::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        write_with(&near, &Command::Forward(34), &[reader.as_fd(), writer.as_fd()]).unwrap();
        let (mut buffer, mut got) = ([0; 4096], Vec::new());
        let n = receive(&far, &mut buffer, &mut got).unwrap();
        assert_eq!(got.len(), 2);
        let mut decoder = Decoder::new(MAX_REPORT);
        decoder.push(&buffer[..n]);
        assert!(matches!(decoder.take::<Command>(), Ok(Some(Command::Forward(34)))));
    }
}
