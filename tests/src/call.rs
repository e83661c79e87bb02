//! Calling a program and looking at what it said. Output goes to files, not
//! pipes: a detached container keeps its streams open, and nobody here shall
//! wait for their end.

use crate::wait::PATIENCE;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A program about to be called.
pub struct Call {
    command: Command,
    shown: String,
    base: PathBuf,
    out_taken: bool,
    patience: Duration,
}

impl Call {
    /// Calls `program`, keeping its output in files under `dir`.
    pub fn new(dir: &Path, program: impl AsRef<OsStr>) -> Call {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let shown = Path::new(program.as_ref())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Call {
            command,
            shown,
            base: dir.join(format!("call{number}")),
            out_taken: false,
            patience: PATIENCE,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Call {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Call {
        args.into_iter().fold(self, Call::arg)
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Call {
        self.command.env(name, value);
        self
    }

    /// Takes a variable of the environment away.
    pub fn env_remove(mut self, name: &str) -> Call {
        self.command.env_remove(name);
        self
    }

    /// Its working directory.
    pub fn in_dir(mut self, dir: impl AsRef<Path>) -> Call {
        self.command.current_dir(dir);
        self
    }

    /// What it reads from stdin.
    pub fn input(mut self, bytes: impl AsRef<[u8]>) -> Call {
        let path = self.base.with_extension("in");
        fs::write(&path, bytes).expect("the input kept");
        self.command.stdin(File::open(path).expect("the input read"));
        self
    }

    /// Its stdin.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Call {
        self.command.stdin(stdin);
        self
    }

    /// Its stdout, otherwise kept in a file.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Call {
        self.command.stdout(stdout);
        self.out_taken = true;
        self
    }

    /// Runs `act` in the child before the program starts.
    ///
    /// The process that calls has one thread when it forks, or `act` makes
    /// system calls only.
    pub fn before_exec(
        mut self,
        act: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Call {
        // SAFETY: the closures given here make system calls only.
        unsafe { self.command.pre_exec(act) };
        self
    }

    /// Waits longer, or shorter, than usual.
    pub fn patience(mut self, time: Duration) -> Call {
        self.patience = time;
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn spawn(mut self) -> Running {
        let out = self.base.with_extension("out");
        let err = self.base.with_extension("err");
        let create = |path: &Path| {
            File::options().create(true).append(true).open(path).expect("a file for output")
        };
        if !self.out_taken {
            self.command.stdout(create(&out));
        }
        self.command.stderr(create(&err));
        let child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{}: {error}", self.shown),
        };
        Running { child, shown: self.shown, out, err, patience: self.patience, done: false }
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Runs it to its end, which must be a good one.
    #[track_caller]
    pub fn ok(self) -> Output {
        let output = self.run();
        output.ok();
        output
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    shown: String,
    out: PathBuf,
    err: PathBuf,
    patience: Duration,
    done: bool,
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The write end of its stdin, where it is a pipe.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The read end of its stdout, where it is a pipe.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes two integers; the child is not reaped yet.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0, "kill");
    }

    /// The files its stdout and stderr go to.
    pub fn files(&self) -> (PathBuf, PathBuf) {
        (self.out.clone(), self.err.clone())
    }

    /// What it wrote to stdout until now.
    pub fn stdout(&self) -> String {
        text(&self.out)
    }

    /// What it wrote to stderr until now.
    pub fn stderr(&self) -> String {
        text(&self.err)
    }

    /// Whether it is still running.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits until stdout contains `words`.
    #[track_caller]
    pub fn says(&mut self, words: &str) {
        let end = Instant::now() + self.patience;
        while !self.stdout().contains(words) {
            if !self.runs() || Instant::now() > end {
                std::thread::sleep(Duration::from_millis(50));
                if self.stdout().contains(words) {
                    return;
                }
                panic!(
                    "`{}` did not say {words:?}\nstdout: {}\nstderr: {}",
                    self.shown,
                    self.stdout(),
                    self.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        match self.wait_for(self.patience) {
            Some(status) => Output {
                status,
                stdout: self.stdout(),
                stderr: self.stderr(),
                shown: self.shown.clone(),
            },
            None => {
                let _ = self.child.kill();
                panic!(
                    "`{}` did not end within {} s\nstdout: {}\nstderr: {}",
                    self.shown,
                    self.patience.as_secs(),
                    shorten(&self.stdout()),
                    shorten(&self.stderr()),
                )
            }
        }
    }

    fn wait_for(&mut self, time: Duration) -> Option<ExitStatus> {
        let pidfd = pidfd(self.pid());
        let end = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                self.done = true;
                return Some(status);
            }
            let left = end.checked_duration_since(Instant::now())?;
            let mut poll = libc::pollfd {
                fd: pidfd.as_ref().map_or(-1, AsRawFd::as_raw_fd),
                events: libc::POLLIN,
                revents: 0,
            };
            let millis = if pidfd.is_some() { left.as_millis().min(1000) as i32 } else { 5 };
            // SAFETY: one pollfd, alive during the call.
            unsafe { libc::poll(&mut poll, 1, millis) };
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done && self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A descriptor of a process.
pub fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: the descriptor is new and ours when it is not negative.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn shorten(text: &str) -> String {
    if text.len() <= 6000 {
        return text.to_owned();
    }
    let (mut head, mut tail) = (3000, text.len() - 3000);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}\n[…]\n{}", &text[..head], &text[tail..])
}

/// What a program left: its status and its words.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    shown: String,
}

impl Output {
    /// Its exit status as a shell would say it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// It must have ended with this status.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Output {
        if self.code() != code {
            panic!("not exit status {code}: {self}");
        }
        self
    }

    /// It must have ended well.
    #[track_caller]
    pub fn ok(&self) -> &Output {
        self.exits(0)
    }

    /// It must have failed by its own word, not by a signal or a panic.
    #[track_caller]
    pub fn fails(&self) -> &Output {
        if self.code() == 0 {
            panic!("not refused: {self}");
        }
        if self.status.signal().is_some() || self.stderr.contains("panicked at") {
            panic!("died instead of refusing: {self}");
        }
        self
    }

    /// It must have failed with an error that says one of these.
    #[track_caller]
    pub fn complains(&self, any: &[&str]) -> &Output {
        self.fails();
        let said = self.stderr.to_lowercase();
        if !any.iter().any(|words| said.contains(&words.to_lowercase())) {
            panic!("the error says none of {any:?}: {self}");
        }
        self
    }

    /// Its stdout, without the spaces around it, must be this.
    #[track_caller]
    pub fn prints(&self, words: &str) -> &Output {
        if self.stdout.trim() != words {
            panic!("stdout is not {words:?}: {self}");
        }
        self
    }

    /// Its stdout must contain this.
    #[track_caller]
    pub fn says(&self, words: &str) -> &Output {
        if !self.stdout.contains(words) {
            panic!("stdout does not contain {words:?}: {self}");
        }
        self
    }

    /// Its stdout must not contain this.
    #[track_caller]
    pub fn does_not_say(&self, words: &str) -> &Output {
        if self.stdout.contains(words) {
            panic!("stdout contains {words:?}: {self}");
        }
        self
    }

    /// The JSON it printed.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {self}"),
        }
    }

    /// The lines of its stdout.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {}\nstdout: {}\nstderr: {}",
            self.shown,
            self.status,
            shorten(&self.stdout),
            shorten(&self.stderr)
        )
    }
}
