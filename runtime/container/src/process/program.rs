//! The program itself: arguments, environment, directory; finding and executing it.
//!
//! The words of a program that cannot be executed are runc's: engines tell "not found" (127) from
//! "not allowed" (126) by them.

use super::stub::Stub;
use crate::error::{Done, Failure, Trying};
use crate::sys;
use crate::{Error, Result};
use nix::errno::Errno;
use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;

/// What is executed.
#[derive(Debug)]
pub(crate) struct Program {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
    search: Option<String>,
    found: CString,
}

impl Program {
    pub(crate) fn plan(process: &oci::spec::Process, additions: Vec<String>) -> Result<Program> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let Some(first) = arguments.first() else {
            return Err(Error::value("process.args", "must not be empty"));
        };
        let text = |field: &str, text: &str| {
            CString::new(text).map_err(|_| Error::value(field, "must not contain a NUL character"))
        };
        let given = process.env().as_deref().unwrap_or_default();
        let environment: Vec<&str> = given.iter().chain(&additions).map(String::as_str).collect();
        let environment = last_of_each(&environment);
        let search =
            environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).map(str::to_owned);
        Ok(Program {
            found: text("process.args", first)?,
            arguments: arguments
                .iter()
                .map(|argument| text("process.args", argument))
                .collect::<Result<_>>()?,
            environment: environment
                .iter()
                .map(|entry| text("process.env", entry))
                .collect::<Result<_>>()?,
            directory: text("process.cwd", &process.cwd().to_string_lossy())?,
            search,
        })
    }

    pub(crate) fn directory(&self) -> &CStr {
        &self.directory
    }

    /// The environment as text.
    pub(crate) fn environment(&self) -> Vec<String> {
        self.environment.iter().map(|entry| entry.to_string_lossy().into_owned()).collect()
    }

    /// Whether the environment lacks a home directory.
    pub(super) fn wants_home(&self) -> bool {
        !self
            .environment
            .iter()
            .any(|entry| entry.to_bytes().strip_prefix(b"HOME=").is_some_and(|v| !v.is_empty()))
    }

    pub(super) fn set_home(&mut self, home: &str) {
        self.environment.retain(|entry| entry.to_bytes() != b"HOME=");
        if let Ok(entry) = CString::new(format!("HOME={home}")) {
            self.environment.push(entry);
        }
    }

    /// Goes to the program's directory and makes sure that it is inside the root: a descriptor
    /// left open (`/proc/self/fd/7`) would lead out.
    pub(super) fn enter(&self) -> Done<()> {
        nix::unistd::chdir(self.directory.as_c_str())
            .trying(|| format!("chdir to cwd ({:?}) set in config.json failed", self.directory))?;
        let mut buffer = [0u8; libc::PATH_MAX as usize];
        // SAFETY: the length given is the buffer's. The system call itself is used: the C library
        // would look for another answer when the kernel's begins with "(unreachable)".
        let length = sys::check(unsafe {
            libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len())
        });
        match length {
            Ok(_) if buffer[0] == b'/' => Ok(()),
            Ok(_) | Err(Errno::ENOENT) => Err(Failure::plain(format!(
                "process.cwd {:?}: current working directory is outside of container mount namespace \
                 root -- possible container breakout detected",
                self.directory
            ))),
            Err(error) => Err(error).trying(|| "get the current directory"),
        }
    }

    /// Finds the program's file by `PATH`, as the user that it will run as.
    pub(super) fn find(&mut self) -> Done<()> {
        let name = self.arguments[0].to_string_lossy().into_owned();
        let quoted = format!("exec: {name:?}");
        if name.contains('/') {
            return match executable(&self.arguments[0]) {
                Ok(()) => Ok(()),
                Err(Errno::ENOENT) => {
                    Err(Errno::ENOENT).trying(|| format!("{quoted}: stat {name}"))
                }
                // Docker tells "cannot be executed" (126) by the words of EACCES alone.
                Err(Errno::EISDIR) => {
                    Err(Errno::EACCES).trying(|| format!("{quoted}: is a directory"))
                }
                Err(error) => Err(error).trying(|| quoted),
            };
        }
        let search = self.search.as_deref().unwrap_or_default();
        for directory in search.split(':').filter(|directory| !directory.is_empty()) {
            if let Ok(candidate) = CString::new(format!("{directory}/{name}"))
                && executable(&candidate).is_ok()
            {
                self.found = candidate;
                return Ok(());
            }
        }
        Err(Failure::plain(format!("{quoted}: executable file not found in $PATH")))
    }

    /// Executes the program. Returns only when that fails.
    pub(super) fn execute(&self, stub: Option<&Stub>) -> Done<Infallible> {
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let arguments = pointers(&self.arguments);
        let environment = pointers(&self.environment);
        if let Some(stub) = stub {
            // Comes back only where the stub cannot be executed.
            stub.execute(&self.found, &self.arguments, &environment);
        }
        // SAFETY: the path is NUL-terminated; both lists hold pointers to NUL-terminated strings
        // that outlive the call and end with a null pointer.
        unsafe { libc::execve(self.found.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        Err(Errno::last()).trying(|| format!("exec {}", self.found.to_string_lossy()))
    }
}

/// Whether a file can be executed by the caller.
fn executable(path: &CStr) -> sys::Result<()> {
    let stat = nix::sys::stat::stat(path)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    // SAFETY: the path is NUL-terminated.
    let result = sys::check(unsafe {
        libc::faccessat(sys::cwd().as_raw_fd(), path.as_ptr(), libc::X_OK, libc::AT_EACCESS)
    } as libc::c_long);
    match result {
        Err(Errno::EACCES) => Err(Errno::EACCES),
        // Answers of a filter or of an old kernel are no answers: exec will tell.
        _ => Ok(()),
    }
}

/// Of entries with the same name the last one counts.
fn last_of_each<'a>(entries: &[&'a str]) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let mut kept: Vec<&str> = entries
        .iter()
        .rev()
        .filter(|entry| seen.insert(entry.split('=').next()))
        .copied()
        .collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(json: &str) -> Program {
        Program::plan(&serde_json::from_str(json).unwrap(), Vec::new()).unwrap()
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        assert_eq!(last_of_each(&["A=1", "B=2", "A=3"]), ["B=2", "A=3"]);
    }

    #[test]
    fn a_name_is_searched_for() {
        let mut sh = program(
            r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["sh"],"env":["PATH=/nowhere:/bin"]}"#,
        );
        sh.find().unwrap();
        assert_eq!(sh.found.as_c_str(), c"/bin/sh");
    }

    #[test]
    fn failures_have_the_words_that_engines_know() {
        let words = |name: &str| {
            let json = format!(
                r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["{name}"],"env":["PATH=/bin"]}}"#
            );
            program(&json).find().unwrap_err().to_string()
        };
        assert_eq!(
            words("no-such-thing"),
            r#"exec: "no-such-thing": executable file not found in $PATH"#
        );
        assert_eq!(
            words("/no/such"),
            r#"exec: "/no/such": stat /no/such: no such file or directory"#
        );
        assert_eq!(words("/etc/passwd"), r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(words("/etc"), r#"exec: "/etc": is a directory: permission denied"#);
    }

    #[test]
    fn home_is_only_set_when_it_is_missing() {
        let json = r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["x"],"env":["HOME="]}"#;
        let mut program = program(json);
        assert!(program.wants_home());
        program.set_home("/root");
        assert!(!program.wants_home());
        assert_eq!(program.environment, [c"HOME=/root".to_owned()]);
    }
}
