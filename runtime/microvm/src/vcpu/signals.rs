//! The signal that takes a processor out of the guest: SIGRTMAX, whose
//! handler does nothing. Everything else is the main thread's.

use std::io;
use std::sync::Once;

extern "C" fn nothing(_: libc::c_int) {}

/// The kick's number.
pub fn kick_signal() -> libc::c_int {
    libc::SIGRTMAX()
}

/// Installs the handler, once for the process.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is a valid one; the handler is an empty function,
        // which is async-signal-safe. SA_RESTART is left out, for KVM_RUN must return.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(kick_signal(), &action, std::ptr::null_mut());
        }
    });
}

/// Blocks all signals in the calling thread, but those that a fault of its
/// own raises.
pub fn block_all() {
    mask(&[]);
}

/// Blocks all signals in the calling thread but the kick and own faults.
pub fn block_all_but_kick() {
    mask(&[kick_signal()]);
}

fn mask(open: &[libc::c_int]) {
    // SAFETY: the set is initialised by sigfillset before it is used, and the
    // signal numbers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        for &signal in
            [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT]
                .iter()
                .chain(open)
        {
            libc::sigdelset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Kicks a thread of this process. One that is gone is no error.
pub fn kick(tid: libc::pid_t) -> io::Result<()> {
    // SAFETY: tgkill takes plain numbers; the handler is installed before any
    // thread makes its number known.
    let done = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, kick_signal()) };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            e => Err(e),
        },
    }
}
