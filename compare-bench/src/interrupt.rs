//! Being stopped half-way without leaving containers behind: a signal only
//! sets a flag, measurements look at it between their steps and unwind.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::error::Error;

static STOPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    STOPPED.store(true, Ordering::Relaxed);
}

/// Makes SIGINT, SIGTERM and SIGHUP set the flag.
pub fn install() -> Result<(), Error> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores to an atomic and nothing else, which is
        // async-signal-safe.
        unsafe { sigaction(signal, &action) }
            .map_err(|errno| Error::System { what: "sigaction", source: errno.into() })?;
    }
    Ok(())
}

/// An error if a signal came.
pub fn check() -> Result<(), Error> {
    if STOPPED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
