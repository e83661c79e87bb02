//! Hooks: the user's programs at fixed points of a container's life.

use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci::spec::Hook;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which point of the life ("POSIX-platform Hooks" of the runtime specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Deprecated form of [`Kind::CreateRuntime`], run before it.
    Prestart,
    /// After the namespaces were made, in the runtime's.
    CreateRuntime,
    /// Before `pivot_root`, in the container's namespaces.
    CreateContainer,
    /// Before the user's program, in the container.
    StartContainer,
    /// After the user's program began, in the runtime's namespaces.
    Poststart,
    /// After the container was deleted, in the runtime's namespaces.
    Poststop,
}

impl Kind {
    /// The name as `config.json` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prestart => "prestart",
            Kind::CreateRuntime => "createRuntime",
            Kind::CreateContainer => "createContainer",
            Kind::StartContainer => "startContainer",
            Kind::Poststart => "poststart",
            Kind::Poststop => "poststop",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a hook ended badly.
#[derive(Debug, thiserror::Error)]
#[error("error running {kind} hook #{index}: {}: {problem}", path.display())]
pub struct Error {
    /// Of which kind.
    pub kind: Kind,
    /// Its place in the list, from 0.
    pub index: usize,
    /// Its program.
    pub path: PathBuf,
    /// What happened.
    pub problem: Problem,
}

/// What can happen to a hook.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It could not be run.
    #[error("{operation}: {source}")]
    Run {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ended with a status that is not 0.
    #[error("exit status {status}, stderr: {stderr}")]
    Status {
        /// The exit status.
        status: i32,
        /// What it wrote to stderr, shortened.
        stderr: String,
    },
    /// A signal ended it.
    #[error("signal: {}, stderr: {stderr}", signal_words(*signal))]
    Signal {
        /// Number of the signal.
        signal: i32,
        /// What it wrote to stderr, shortened.
        stderr: String,
    },
    /// It did not end in time and was killed.
    #[error("did not end within {seconds} s")]
    Timeout {
        /// Its time limit.
        seconds: i64,
    },
}

/// What a signal is called where Go programs tell of it, as engines' users know it.
fn signal_words(signal: i32) -> String {
    // SAFETY: the number is only looked up; the text is static or this thread's.
    let text = unsafe { libc::strsignal(signal) };
    if text.is_null() {
        return signal.to_string();
    }
    // SAFETY: not null, so a string that ends with a NUL.
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    format!("{} ({signal})", text.to_string_lossy().to_lowercase())
}

/// How often a hook that cannot be watched is looked after, in milliseconds.
const UNWATCHED: u8 = 5;

/// Longest part of a hook's output that an error shows.
const MAX_OUTPUT: usize = 4096;

/// Runs the hooks of one kind in order; the first that fails ends it.
pub fn run(hooks: &[Hook], kind: Kind, state: &oci::State) -> Result<(), Error> {
    if hooks.is_empty() {
        return Ok(());
    }
    let document = serde_json::to_vec(state).unwrap_or_default();
    for (index, hook) in hooks.iter().enumerate() {
        one(hook, &document).map_err(|problem| Error {
            kind,
            index,
            path: hook.path().clone(),
            problem,
        })?;
    }
    Ok(())
}

fn one(hook: &Hook, state: &[u8]) -> Result<(), Problem> {
    let trying = |operation| move |source: io::Error| Problem::Run { operation, source };
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    // So that what it started can be ended with it.
    command.process_group(0).env_clear();
    for entry in hook.env().iter().flatten() {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name, value);
        }
    }
    // Both outputs go one way: a hook may write its reason to either.
    let (output, theirs) = io::pipe().map_err(trying("make a pipe"))?;
    let second = theirs.try_clone().map_err(trying("make a pipe"))?;
    command.stdin(Stdio::piped()).stdout(theirs).stderr(second);
    let mut child = command.spawn().map_err(trying("start"))?;
    // Our copies of the writing ends are in there.
    drop(command);
    // A filter of the container's may forbid it; and then it is looked after now and then.
    let pidfd = sys::pidfd_open(child.id() as i32).ok();
    let mut conversation = Conversation {
        input: child.stdin.take().map(OwnedFd::from),
        left: state,
        output: OwnedFd::from(output),
        said: Vec::new(),
    };
    let deadline = hook
        .timeout()
        .map(|seconds| Instant::now() + Duration::from_secs(seconds.try_into().unwrap_or(0)));
    let ended =
        conversation.hold(&mut child, pidfd.as_ref(), deadline).map_err(trying("wait for"))?;
    if !ended {
        // SAFETY: sends a signal to the group that the hook leads and is not reaped from yet.
        unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
        let _ = child.wait();
        return Err(Problem::Timeout { seconds: hook.timeout().unwrap_or(0) });
    }
    let status = child.wait().map_err(trying("wait for"))?;
    let stderr = String::from_utf8_lossy(&conversation.said).trim_end().to_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(status), _) => Err(Problem::Status { status, stderr }),
        (None, signal) => Err(Problem::Signal { signal: signal.unwrap_or(0), stderr }),
    }
}

/// The pipes to and from a hook.
struct Conversation<'a> {
    input: Option<OwnedFd>,
    left: &'a [u8],
    output: OwnedFd,
    said: Vec<u8>,
}

impl Conversation<'_> {
    /// Feeds and listens until the hook ends; false when it did not in time. What a process that
    /// it left behind still writes is nobody's concern.
    fn hold(
        &mut self,
        child: &mut Child,
        pidfd: Option<&OwnedFd>,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        if let Some(input) = &self.input {
            nonblocking(input)?;
        }
        nonblocking(&self.output)?;
        let mut listening = true;
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(false);
                    }
                    let millis = left.as_millis().saturating_add(1).min(i32::MAX as u128) as i32;
                    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
                }
            };
            let timeout = match pidfd {
                None if timeout.is_none() => PollTimeout::from(UNWATCHED),
                None => timeout.min(PollTimeout::from(UNWATCHED)),
                Some(_) => timeout,
            };
            let mut fds = Vec::with_capacity(3);
            if let Some(pidfd) = pidfd {
                fds.push(PollFd::new(pidfd.as_fd(), PollFlags::POLLIN));
            }
            if listening {
                fds.push(PollFd::new(self.output.as_fd(), PollFlags::POLLIN));
            }
            if let Some(input) = &self.input {
                fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
            }
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ended = match pidfd {
                Some(_) => fds[0].any().unwrap_or(false),
                None => child.try_wait()?.is_some(),
            };
            self.feed();
            listening = listening && self.listen();
            if ended {
                return Ok(true);
            }
        }
    }

    fn feed(&mut self) {
        let Some(input) = &self.input else { return };
        match nix::unistd::write(input, self.left) {
            Ok(n) => self.left = &self.left[n..],
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            // A hook need not read its state.
            Err(_) => self.left = &[],
        }
        if self.left.is_empty() {
            self.input = None;
        }
    }

    /// Takes what was said; false at its end.
    fn listen(&mut self) -> bool {
        let mut chunk = [0u8; 4096];
        loop {
            match nix::unistd::read(&self.output, &mut chunk) {
                Ok(0) => return false,
                Ok(n) => {
                    let room = MAX_OUTPUT.saturating_sub(self.said.len());
                    self.said.extend_from_slice(&chunk[..n.min(room)]);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
    }
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let mut hook = Hook::default();
        hook.set_path("/bin/sh".into());
        hook.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
        hook.set_env(Some(vec!["WORD=mark".into(), "PATH=/bin:/usr/bin".into()]));
        hook.set_timeout(timeout);
        hook
    }

    fn state() -> oci::State {
        oci::State {
            oci_version: "1.3.0".into(),
            id: "hooked".into(),
            status: oci::Status::Creating,
            pid: Some(7),
            bundle: "/bundle".into(),
            annotations: Default::default(),
        }
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_environment() {
        let script = r#"read -r line; case "$line$WORD" in *hooked*mark) ;; *) exit 9;; esac"#;
        run(&[hook(script, None)], Kind::CreateRuntime, &state()).unwrap();
    }

    #[test]
    fn a_hook_need_not_read() {
        run(&[hook("exit 0", None)], Kind::Poststop, &state()).unwrap();
    }

    #[test]
    fn a_failing_hook_is_named() {
        let hooks = [hook("exit 0", None), hook("echo why >&2; exit 3", None)];
        let error = run(&hooks, Kind::CreateRuntime, &state()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "error running createRuntime hook #1: /bin/sh: exit status 3, stderr: why"
        );
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let before = Instant::now();
        let error = run(&[hook("sleep 60", Some(1))], Kind::Poststart, &state()).unwrap_err();
        assert!(matches!(error.problem, Problem::Timeout { seconds: 1 }));
        assert!(before.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_process_left_behind_is_not_waited_for() {
        let before = Instant::now();
        run(&[hook("sleep 30 & exit 0", None)], Kind::Poststart, &state()).unwrap();
        assert!(before.elapsed() < Duration::from_secs(20));
    }
}
