//! Whose files a worker thread creates.
//!
//! A file is created with the owner the guest names by giving the *thread*
//! that file system uid and gid (`setfsuid(2)`): no moment at which the file
//! belongs to somebody else, and set-group-id directories and quotas work as
//! they do locally. Normally a thread that leaves uid 0 loses the file
//! capabilities with it; `SECBIT_NO_SETUID_FIXUP` (capabilities(7)) keeps
//! them, as whether the guest's user may do this at all has been decided by
//! the guest's kernel.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::sys::check;

/// What the calling thread is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// [`prepare`] was not called.
    Raw,
    /// May take any identity and has this one.
    Any(u32, u32),
    /// Lacks the privilege: creates as itself.
    Fixed(u32, u32),
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Raw) };
}

/// Readies the calling thread for good: its current directory becomes
/// `proc_fd` (`/proc/self/fd`, where extended attributes are reached), its
/// umask 0 (the guest has applied its own), and it keeps its capabilities
/// when it takes another user's identity. Directory and umask are its own
/// from then on.
pub fn prepare(proc_fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: numbers only; affects this thread alone.
    check(unsafe { libc::unshare(libc::CLONE_FS) })?;
    // SAFETY: a number only.
    check(unsafe { libc::fchdir(proc_fd.as_raw_fd()) })?;
    // SAFETY: a number only; cannot fail.
    unsafe { libc::umask(0) };
    // SAFETY: both only read ids.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: numbers only.
    let bits = check(unsafe { libc::prctl(libc::PR_GET_SECUREBITS) })?;
    let bits = bits | libc::SECBIT_NO_SETUID_FIXUP;
    // SAFETY: numbers only.
    let kept = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits as libc::c_ulong) } == 0;
    STATE.set(if kept { State::Any(uid, gid) } else { State::Fixed(uid, gid) });
    Ok(())
}

/// Whether [`prepare`] has been called on this thread.
pub fn prepared() -> bool {
    STATE.get() != State::Raw
}

/// From now on this thread creates files as this user and group.
pub fn assume(uid: u32, gid: u32) -> io::Result<()> {
    match STATE.get() {
        State::Raw => Err(io::Error::from_raw_os_error(libc::EIO)),
        State::Any(u, g) | State::Fixed(u, g) if (u, g) == (uid, gid) => Ok(()),
        State::Fixed(..) => Err(io::Error::from_raw_os_error(libc::EPERM)),
        State::Any(..) => {
            // An id that is not mapped in our user namespace is silently not
            // taken, so ask: setfsuid(-1) changes nothing and tells.
            // SAFETY: numbers only; the raw calls act on this thread alone.
            let now = unsafe {
                libc::setfsgid(gid);
                libc::setfsuid(uid);
                (libc::setfsuid(u32::MAX) as u32, libc::setfsgid(u32::MAX) as u32)
            };
            STATE.set(State::Any(now.0, now.1));
            if now == (uid, gid) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EOVERFLOW))
            }
        }
    }
}

/// capget(2), version 3.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;
const CAP_FSETID: u32 = 1 << 4;

fn capabilities() -> io::Result<[Sets; 2]> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: a header of version 3 and the two sets that go with it.
    let ret = unsafe { libc::syscall(libc::SYS_capget, &mut header, sets.as_mut_ptr()) };
    check(ret as i32)?;
    Ok(sets)
}

fn set_capabilities(sets: &[Sets; 2]) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: a header of version 3 and the two sets that go with it.
    let ret = unsafe { libc::syscall(libc::SYS_capset, &mut header, sets.as_ptr()) };
    check(ret as i32).map(drop)
}

/// Runs `f` without CAP_FSETID, so that the host's kernel clears
/// set-user-id and set-group-id bits as it would for the guest's user.
pub fn without_fsetid<T>(f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = capabilities()?;
    if before[0].effective & CAP_FSETID == 0 {
        return f();
    }
    let mut during = before;
    during[0].effective &= !CAP_FSETID;
    set_capabilities(&during)?;
    let result = f();
    set_capabilities(&before)?;
    result
}
