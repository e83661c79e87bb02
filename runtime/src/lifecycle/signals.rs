//! Signals while something is half made.
//!
//! They are blocked, not ignored: what arrives waits until the work is done or undone. The
//! wall's children start with an empty mask and default dispositions again.

use std::mem::MaybeUninit;
use std::ptr;

/// All signals are blocked until this is dropped.
pub struct Blocked {
    before: libc::sigset_t,
}

impl Blocked {
    /// Blocks every signal but those that tell of a fault of our own.
    pub fn new() -> Self {
        let mut before = MaybeUninit::uninit();
        let set = Self::set();
        // SAFETY: `set` is an initialised set, `before` is written before it is read.
        let before = unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &set, before.as_mut_ptr());
            before.assume_init()
        };
        Blocked { before }
    }

    /// The blocked set.
    pub fn set() -> libc::sigset_t {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the set, which sigdelset then changes.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
                libc::sigdelset(&mut set, fault);
            }
            set
        }
    }

    /// Whether somebody asked this process to end meanwhile.
    pub fn end_asked(&self) -> Option<i32> {
        let mut pending = MaybeUninit::uninit();
        // SAFETY: sigpending initialises the set, sigismember reads it.
        unsafe {
            libc::sigpending(pending.as_mut_ptr());
            let pending = pending.assume_init();
            [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT]
                .into_iter()
                .find(|&signal| libc::sigismember(&pending, signal) == 1 && !ignored(signal))
        }
    }
}

impl Default for Blocked {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was written by pthread_sigmask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}

fn ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction with no new action writes the present one; zeroes are a valid value.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
