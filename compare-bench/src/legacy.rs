//! crun refuses a hybrid cgroup layout whose v2 hierarchy carries controllers.
//! It is given a mount namespace of its own in which that hierarchy is not
//! mounted, made once; joining it costs one setns(2) per run.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::error::Error;

const UNIFIED: &std::ffi::CStr = c"/sys/fs/cgroup/unified";

/// Whether the layout is the one that crun refuses.
pub fn needed() -> bool {
    fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers")
        .is_ok_and(|controllers| !controllers.trim().is_empty())
}

/// A mount namespace like this one without the v2 hierarchy.
pub fn mount_namespace() -> Result<OwnedFd, Error> {
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for the two descriptors.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(Error::last("pipe2"));
    }
    // SAFETY: both descriptors are new and nobody else's.
    let (mut reader, writer) = unsafe { (File::from_raw_fd(pipe[0]), File::from_raw_fd(pipe[1])) };
    // SAFETY: no thread has been started yet, and the child calls nothing but
    // system calls before it ends.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(Error::last("fork"));
    }
    if child == 0 {
        // SAFETY: system calls on literals and on an open descriptor; the
        // child never returns from here.
        unsafe {
            let private = libc::MS_REC | libc::MS_SLAVE;
            let none = std::ptr::null();
            let done = libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, private, none.cast()) == 0
                && libc::umount2(UNIFIED.as_ptr(), libc::MNT_DETACH) == 0;
            if done {
                libc::write(pipe[1], c"1".as_ptr().cast(), 1);
                libc::pause();
            }
            libc::_exit(1);
        }
    }
    drop(writer);
    let mut ready = [0];
    let made = reader.read_exact(&mut ready);
    let opened = File::open(format!("/proc/{child}/ns/mnt"));
    // SAFETY: the pid is that of an unreaped child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    made.and(opened)
        .map(OwnedFd::from)
        .map_err(|source| Error::System { what: "a mount namespace for crun", source })
}
