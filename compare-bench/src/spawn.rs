//! One process, measured from before its fork to after its wait: wall time,
//! time to the first byte on stdout, and the peak memory the kernel tells of
//! it and of the children it waited for (wait4(2), `ru_maxrss`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::Error;

/// What a finished process cost, and how it ended.
#[derive(Debug)]
pub struct Measured {
    pub wall: Duration,
    /// None when nothing came, or stdout was not looked at.
    pub first_output: Option<Duration>,
    pub peak_kib: u64,
    /// As a shell tells it: 128+n for a signal.
    pub status: i32,
    pub stderr: String,
}

/// What becomes of the process's stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Read to its end. Only for a process whose descendants end with it.
    Read,
    /// /dev/null: a detached container keeps what it is given.
    Discard,
}

/// Orphans of runtimes become this process's children: nothing else on a
/// plain machine reaps them, and an unreaped container still "runs".
pub fn adopt_orphans() -> Result<(), Error> {
    // SAFETY: prctl with PR_SET_CHILD_SUBREAPER takes integers only.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if done == 0 { Ok(()) } else { Err(Error::last("prctl(PR_SET_CHILD_SUBREAPER)")) }
}

/// Runs `argv` to its end. `mount_ns`: joined by the child before it executes.
pub fn run(
    program: &Path,
    args: &[OsString],
    output: Output,
    mount_ns: Option<BorrowedFd<'_>>,
) -> Result<Measured, Error> {
    let mut stderr = memory_file()?;
    let for_child = stderr
        .try_clone()
        .map_err(|source| Error::System { what: "dup of the stderr file", source })?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stderr(Stdio::from(for_child)).stdout(match output {
        Output::Read => Stdio::piped(),
        Output::Discard => Stdio::null(),
    });
    let join = mount_ns.map(|fd| fd.as_raw_fd());
    // The hook is also there without a namespace to join: with one the child
    // is forked, not vforked, and a vforked child's peak memory would begin
    // at this program's (exec keeps the larger of both).
    //
    // SAFETY: between fork and exec only setns and getpid are called, which
    // are async-signal-safe system calls; `join` stays open in this scope.
    unsafe {
        command.pre_exec(move || match join {
            Some(fd) if libc::setns(fd, libc::CLONE_NEWNS) != 0 => {
                Err(std::io::Error::last_os_error())
            }
            _ => Ok(()),
        });
    }
    let began = Instant::now();
    let mut child =
        command.spawn().map_err(|source| Error::Spawn { program: program.to_owned(), source })?;
    let mut first_output = None;
    if let Some(mut stdout) = child.stdout.take() {
        let mut buffer = [0; 16384];
        while let Ok(1..) = stdout.read(&mut buffer) {
            first_output.get_or_insert_with(|| began.elapsed());
        }
    }
    let (status, peak_kib) = wait(child.id())?;
    let wall = began.elapsed();
    Ok(Measured { wall, first_output, peak_kib, status, stderr: text(&mut stderr) })
}

/// Waits for one child; its status and peak memory in KiB.
fn wait(pid: u32) -> Result<(i32, u64), Error> {
    let mut raw = 0;
    // SAFETY: rusage is plain old data, all zeroes is a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals of the right types.
        let got = unsafe { libc::wait4(pid as libc::pid_t, &mut raw, 0, &mut usage) };
        if got > 0 {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(Error::System { what: "wait4", source: error });
        }
    }
    let status =
        if libc::WIFSIGNALED(raw) { 128 + libc::WTERMSIG(raw) } else { libc::WEXITSTATUS(raw) };
    Ok((status, u64::try_from(usage.ru_maxrss).unwrap_or(0)))
}

fn memory_file() -> Result<File, Error> {
    // SAFETY: the name is a NUL-terminated literal.
    let fd = unsafe { libc::memfd_create(c"stderr".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last("memfd_create"));
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The end of what a process said, on one line.
fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(4)..].join(" | ");
    let start = tail.len().saturating_sub(600);
    let start = (start..=tail.len()).find(|at| tail.is_char_boundary(*at)).unwrap_or(0);
    tail[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, output: Output) -> Measured {
        run(Path::new("/bin/sh"), &["-c".into(), script.into()], output, None).unwrap()
    }

    #[test]
    fn the_status_is_the_shells() {
        assert_eq!(shell("exit 42", Output::Discard).status, 42);
        assert_eq!(shell("kill -9 $$", Output::Discard).status, 137);
    }

    #[test]
    fn the_first_output_is_before_the_end() {
        let measured = shell("echo x; sleep 0.05; echo y", Output::Read);
        let first = measured.first_output.unwrap();
        assert!(first + Duration::from_millis(40) < measured.wall, "{measured:?}");
    }

    #[test]
    fn silence_has_no_first_output() {
        assert!(shell(":", Output::Read).first_output.is_none());
    }

    #[test]
    fn stderr_is_kept_on_one_line() {
        assert_eq!(shell("echo a >&2; echo b >&2", Output::Read).stderr, "a | b");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(Path::new("/no/such"), &[], Output::Read, None).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }
}
