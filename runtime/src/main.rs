//! The `hull` command.
//!
//! It has C's `main`: what Rust's sets up before its own (a guard page and a signal stack to
//! tell of overflows, a look at `/proc/self/maps`) is a dozen system calls that a process
//! which lives for a few milliseconds has no use for.
#![cfg_attr(not(test), no_main)]

use std::ffi::OsStr;

/// Opens what is closed of stdin, stdout and stderr: the next file opened would become one.
#[cfg_attr(test, allow(dead_code, reason = "the test harness brings its own main"))]
fn keep_standard_descriptors() {
    let entry = |fd| libc::pollfd { fd, events: 0, revents: 0 };
    let mut fds = [entry(0), entry(1), entry(2)];
    // SAFETY: the array is valid for its length; the path is a C string.
    unsafe {
        if libc::poll(fds.as_mut_ptr(), 3, 0) <= 0 {
            return;
        }
        for fd in fds {
            if fd.revents & libc::POLLNVAL != 0 {
                // The lowest free number is taken: this one.
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
}

/// Called by the C library, which has told Rust's of the arguments before.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, allow(dead_code, reason = "the test harness brings its own main"))]
extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    keep_standard_descriptors();
    // As Rust's own main does: a pipe that nobody reads (a hook's stdin, `| head`) is an error to
    // handle, not the end in the middle of making a container.
    // SAFETY: sets a disposition, no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // The monitor of a microVM is this program, executed again.
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(hull::microvm_wall::MONITOR)) {
        hull::microvm_wall::monitor();
    }
    hull::cli::main(std::env::args_os())
}
